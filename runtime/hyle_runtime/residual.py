"""How far answers are from the exact ones, in one number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["residual_of"]

Array = np.ndarray[Any, Any]


def residual_of(pairs: Iterable[tuple[Array, Array]]) -> float:
    """Root-mean-square difference from the exact answers, relative to these unless they are all zero.

    Where an exact answer is not finite (a masked class scores minus infinity) it says nothing of the matter and is left
    out; an answer that is not finite where the exact one is makes the residual so.

    Args:
        pairs: Answers and exact answers, of one shape each.
    """
    wrong = power = 0.0
    for answers, exact in pairs:
        known = np.isfinite(exact)
        a, b = answers[known].astype(np.float64), exact[known].astype(np.float64)
        wrong, power = wrong + float(np.sum((a - b) ** 2)), power + float(np.sum(b**2))
    return math.sqrt(wrong / power) if power else math.sqrt(wrong)
