"""How far a healthy device may be from the exact model in its self-test, from what the twin's instances did."""

from __future__ import annotations

import numpy as np

from hyle_compiler.evaluate import Evaluation
from hyle_compiler.exactness import IDEAL_TOLERANCE

__all__ = ["self_test_bound"]

FEWEST = 4
FACTOR = 3.0


def self_test_bound(evaluation: Evaluation, fitted: bool = False) -> tuple[float, str]:
    """Six standard deviations above the mean residual of the verified instances, at the worst age.

    The spread from instance to instance is a share of the mean that hardly depends on the age, so that it is taken from
    all ages together: of six instances at three ages 15 differences, not five. With fewer than four instances it is not
    known well enough. With a fitted twin the error is no noise but may be one and the same for all golden vectors, and
    is then, in the worst case, as rare beyond three times the mean as a normal deviate beyond three. In both it is
    three times the mean.

    Returns:
        The bound and what it is derived from.
    """
    residuals = np.array([age.residuals for age in evaluation.ages], dtype=np.float64)
    ages, instances = residuals.shape
    means = residuals.mean(axis=1)
    if fitted:
        factor, text = FACTOR, "three times the twin's residual with its held-out error"
    elif instances < FEWEST:
        factor, text = FACTOR, f"three times the mean of {instances} twin instances, too few to tell their spread"
    else:
        known = means > 0.0
        shares = residuals[known] / means[known, None] - 1.0
        spread = float(np.sqrt(np.sum(shares**2) / max(1, len(shares) * (instances - 1))))
        factor = 1.0 + 6.0 * spread
        text = (
            f"largest over ages of mean + 6 standard deviations of {instances} twin instances at {ages} ages together"
        )
    bound = max(factor * float(means.max()), IDEAL_TOLERANCE)
    return float(f"{bound:.6g}"), text
