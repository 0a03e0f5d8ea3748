"""How far a healthy device may be from the exact model in its self-test, from what the twin's instances did."""

from __future__ import annotations

import numpy as np

from hyle_compiler.evaluate import Evaluation
from hyle_compiler.exactness import IDEAL_TOLERANCE

__all__ = ["self_test_bound"]


def self_test_bound(evaluation: Evaluation, fitted: bool = False) -> tuple[float, str]:
    """Six standard deviations above the mean residual of the verified instances, at the worst age.

    With a fitted twin it is three times the mean: its error is no noise but may be one and the same for all golden
    vectors, and is then, in the worst case, as rare beyond that as a normal deviate beyond three.
    """
    if fitted:
        bound = max(3.0 * float(np.mean(age.residuals)) for age in evaluation.ages)
        return float(f"{max(bound, IDEAL_TOLERANCE):.6g}"), "three times the twin's residual with its held-out error"
    bounds = []
    for age in evaluation.ages:
        spread = float(np.std(age.residuals, ddof=1)) if len(age.residuals) > 1 else 0.0
        bounds.append(float(np.mean(age.residuals)) + 6.0 * spread)
    bound = max([*bounds, IDEAL_TOLERANCE])
    text = f"largest over ages of mean + 6 standard deviations of {len(evaluation.ages[0].residuals)} twin instances"
    return float(f"{bound:.6g}"), text
