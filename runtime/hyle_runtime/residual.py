"""How far answers are from the exact ones, in one number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["are_labels", "held", "residual_of"]

Array = np.ndarray[Any, Any]
WORDS = "OSU"
CODE_BYTES = 2


def held(answers: Mapping[str, Array]) -> list[str]:
    """Names of the answers, arrays of any shape, that a residual is taken of.

    A class or an index is no quantity: class 7 is not further from class 0 than class 1 is. Where some answers are
    floats, only these count; else integers of 8 and 16 bits, which are quantised floats; else labels. Words never do.
    """
    kinds = (_is_float, _is_code, lambda dtype: dtype.kind not in WORDS)
    found = ([name for name, array in answers.items() if kind(array.dtype)] for kind in kinds)
    return next((names for names in found if names), [])


def are_labels(answers: Iterable[Array]) -> bool:
    """Whether arrays of answers that are held are labels, of which a residual is the share that disagrees."""
    return not any(_is_float(array.dtype) or _is_code(array.dtype) for array in answers)


def residual_of(pairs: Iterable[tuple[Array, Array]]) -> float:
    """Root-mean-square difference from the exact answers, relative to these unless they are all zero.

    Only the answers that are `held` count; of labels the residual is the share that is another one.

    Where an exact answer is not finite (a masked class scores minus infinity) it says nothing of the matter and is left
    out; an answer that is not finite where the exact one is makes the residual so.

    Args:
        pairs: Answers and exact answers, of one shape each.
    """
    given = {str(place): pair for place, pair in enumerate(pairs)}
    some = [given[name] for name in held({name: exact for name, (_, exact) in given.items()})]
    return _share_apart(some) if are_labels(exact for _, exact in some) else _relative(some)


def _share_apart(pairs: Iterable[tuple[Array, Array]]) -> float:
    apart = [np.ravel(answers != exact) for answers, exact in pairs]
    return float(np.mean(np.concatenate(apart))) if sum(map(len, apart)) else 0.0


def _relative(pairs: Iterable[tuple[Array, Array]]) -> float:
    wrong = power = 0.0
    for answers, exact in pairs:
        known = np.isfinite(exact)
        a, b = answers[known].astype(np.float64), exact[known].astype(np.float64)
        wrong, power = wrong + float(np.sum((a - b) ** 2)), power + float(np.sum(b**2))
    return math.sqrt(wrong / power) if power else math.sqrt(wrong)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind not in f"iub{WORDS}"


def _is_code(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" and dtype.itemsize <= CODE_BYTES
