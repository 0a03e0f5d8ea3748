"""How far a healthy device may be from the exact model in its self-test, from what the twin's instances did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from hyle_bundle.manifest import Golden, Manifest

from hyle_compiler.evaluate import Evaluation
from hyle_compiler.exactness import IDEAL_TOLERANCE, require_number

__all__ = ["bound_warnings", "golden_of", "self_test_bound", "with_self_test"]

Array = np.ndarray[Any, Any]
MOST = 3.0
SILENT = 1.0
SIGMAS = 6.0
# Instances that differ by less, as a share of their residual, have no noise: one code that rounds otherwise is more.
ROUNDING = 1e-3
# What Student's t exceeds once in ten thousand draws, by degrees of freedom.
STUDENT = {1: 3183.1, 2: 70.7, 3: 22.2, 4: 13.03, 5: 9.68, 6: 8.02, 7: 7.06, 8: 6.44, 9: 6.01}


def with_self_test(
    manifest: Manifest, report: dict[str, Any], evaluation: Evaluation, samples: int, *, labels: int
) -> Manifest:
    """A manifest with the self-test that an evaluation allows it (`golden_of`); the report warns where it is weak."""
    golden = golden_of(samples, evaluation, fitted=bool(manifest.boxes), labels=labels)
    report["warnings"] += bound_warnings(golden)
    return msgspec.structs.replace(manifest, golden=golden)


def golden_of(samples: int, evaluation: Evaluation, fitted: bool = False, labels: int = 0) -> Golden:
    """The self-test of `samples` golden vectors, with the bound of a device that was corrected just before by itself.

    With `labels` its residuals are shares of so many labels each.

    Raises:
        VerificationError: A residual is NaN or infinite.
    """
    soon = Evaluation(evaluation.metric, evaluation.samples, tuple(replace(age, later=()) for age in evaluation.ages))
    corrected, text = self_test_bound(soon, fitted, labels)
    later = self_test_bound(evaluation, fitted, labels)
    return Golden(samples, *later, corrected) if later[0] > corrected else Golden(samples, corrected, text)


def bound_warnings(golden: Golden) -> list[dict[str, str]]:
    """What the report says of a self-test that a device would pass which answered zero to everything."""
    if golden.tolerance < SILENT:
        return []
    message = f"The self-test allows a residual of {golden.tolerance:.2g}; a device that answered nothing has one of 1."
    remedy = "Give more calibration samples or instances, more --copies, or a target that holds the model better."
    return [{"message": message, "remedy": remedy}]


def self_test_bound(evaluation: Evaluation, fitted: bool = False, labels: int = 0) -> tuple[float, str]:
    """Six standard deviations above the mean residual of the verified instances, at the worst age.

    Where it was measured, the residual is that of instances which became twice as old since they were corrected: matter
    drifts by the logarithm of its age, and its slow noise is another a while later, which is no fault.

    The spread from instance to instance grows with the mean, on some matter as it does and on some hardly; it is taken
    to grow as its root, from all ages together: of six instances at three ages 15 differences, not five. Where they are
    few it may be much larger than it looks; there the bound is what a further instance exceeds once in ten thousand by
    Student's t, if that is more. It is never more than three times the mean, which is also the bound of a single
    instance, of matter without noise, whose instances are alike, and of a fitted twin, whose error is no noise but may
    be one and the same for all golden vectors and is then, in the worst case, as rare beyond three times the mean as a
    normal deviate beyond three.

    Where the residual is the share of so many `labels` that disagree, it is the share of a further label by the rule of
    succession (n labels that all agreed do not say that none ever will not) and six standard deviations: the spread of
    instances as above, or that of counting so many labels if it is more. It is never more than halfway from that share
    to 1, so that a device whose labels all disagree fails.

    Returns:
        The bound and what it is derived from.

    Raises:
        VerificationError: A residual is NaN or infinite.
    """
    residuals = np.array([age.later or age.residuals for age in evaluation.ages], dtype=np.float64)
    require_number(float(residuals.sum()))
    ages, instances = residuals.shape
    means = residuals.mean(axis=1)
    worst = float(means.max())
    bound, degrees = MOST * worst, ages * (instances - 1)
    if labels:
        bound, text = _share_bound(residuals, labels)
    elif fitted:
        text = "three times the twin's residual with its held-out error"
    elif not degrees:
        text = "three times the residual of one twin instance, which does not tell how they differ"
    else:
        spread, sigmas = _spread(residuals), _sigmas(degrees, instances)
        if spread <= ROUNDING * worst**0.5:
            text = "three times the residual of twin instances that are alike, which does not tell how devices differ"
        else:
            bound = min(bound, worst + sigmas * spread * worst**0.5)
            deviations = f"{sigmas:.1f} standard deviations of {instances} twin instances at {ages} ages"
            text = f"mean at the worst age + {deviations}"
    if any(age.later for age in evaluation.ages):
        text += ", at twice the age at which they were corrected"
    return float(f"{max(bound, IDEAL_TOLERANCE):.6g}"), text


def _spread(residuals: Array) -> float:
    """Standard deviation of instances (ages by instances), over the root of the mean at their age."""
    ages, instances = residuals.shape
    means = residuals.mean(axis=1, keepdims=True)
    known = means[:, 0] > 0.0
    apart = (residuals[known] - means[known]) / np.sqrt(means[known])
    return float(np.sqrt(np.sum(apart**2) / (ages * (instances - 1))))


def _sigmas(degrees: int, instances: int) -> float:
    return float(max(SIGMAS, STUDENT.get(degrees, 0.0) * (1.0 + 1.0 / instances) ** 0.5))


def _share_bound(residuals: Array, labels: int) -> tuple[float, str]:
    ages, instances = residuals.shape
    worst, seen = float(residuals.mean(axis=1).max()), labels * instances
    share = (worst * seen + 1.0) / (seen + 2.0)
    apart = SIGMAS * (share * (1.0 - share) / labels) ** 0.5
    if instances > 1:
        apart = max(apart, _sigmas(ages * (instances - 1), instances) * _spread(residuals) * worst**0.5)
    text = f"share of {labels} labels that are others, of {instances} twin instances at the worst of {ages} ages, "
    text += "+ 6 standard deviations of counting or of instances"
    return min(share + apart, (1.0 + share) / 2.0), text
