"""How many answers are right: against labels, or against the choices of a reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyle_compiler.errors import CalibrationError

__all__ = ["choices", "class_axis", "rights", "score"]

Array = np.ndarray[Any, Any]
CLOSE = 0.1
IMAGE_RANK = 4


def choices(answers: Array) -> Array:
    """What a model chooses, to be compared with another's choices.

    Args:
        answers: Samples first.

    Returns:
        The largest of the classes, which are the last axis, or the second of maps (four axes and more), one a sample
        and position. Integers, and answers without an axis of classes, are themselves.
    """
    axis = class_axis(answers)
    if answers.dtype.kind not in "fc" or answers.ndim < 2 or answers.shape[axis] == 1:
        return answers
    return np.asarray(answers.argmax(axis=axis))


def score(answers: Array, wanted: Array) -> float:
    """Share of answers that are right, from 0 to 1; arguments and mean of `rights`, samples first."""
    return float(np.mean(rights(answers, wanted)))


def rights(answers: Array, wanted: Array) -> Array:
    """Whether each sample's answer is right, from 0 to 1: for answers of many positions the share that are.

    Args:
        answers: Samples first.
        wanted: Labels or `choices`, samples first: one class a sample or position; numbers for answers without an
            axis of classes, which are right within a tenth of the standard deviation of what is wanted. Classes 0
            and 1 for such answers are told apart at 0.5 where all answers lie from 0 to 1, else at 0.

    Raises:
        CalibrationError: The two do not fit each other.
    """
    return np.asarray(_hits(answers, wanted).reshape(len(wanted), -1).mean(axis=1, dtype=np.float64))


def _hits(answers: Array, wanted: Array) -> Array:
    if answers.size == wanted.size:
        return _values(answers.reshape(-1), wanted.reshape(-1))
    squeezed = _squeezed(wanted)
    for axis in dict.fromkeys((class_axis(answers), -1, 1)):
        if -answers.ndim <= axis < answers.ndim:
            chosen = _squeezed(answers.argmax(axis=axis))
            if chosen.shape == squeezed.shape:
                return np.asarray(chosen == squeezed)
    if squeezed.ndim == 1 and answers.ndim > 1:
        first = answers.reshape(len(wanted), -1, answers.shape[-1])[:, 0].argmax(axis=-1)
        return np.asarray(first == squeezed)
    raise CalibrationError(
        f"`labels` of shape {wanted.shape} do not fit answers of shape {answers.shape}.",
        remedy="Give one class a sample, or one a position in the shape of the answers without their classes.",
    )


def _squeezed(values: Array) -> Array:
    """Samples first, without axes of one entry."""
    return values.reshape(len(values), *[size for size in values.shape[1:] if size != 1])


def class_axis(answers: Array) -> int:
    """Axis of answers that counts classes, if any does: the second of maps (four axes and more), else the last."""
    return 1 if answers.ndim >= IMAGE_RANK else -1


def _values(answers: Array, wanted: Array) -> Array:
    if answers.dtype.kind not in "fc":
        return np.asarray(answers == wanted)
    if wanted.dtype.kind in "iub" and np.isin(wanted, (0, 1)).all():
        edge = 0.5 if answers.min(initial=0.0) >= 0.0 and answers.max(initial=0.0) <= 1.0 else 0.0
        return np.asarray((answers > edge) == wanted.astype(bool))
    return np.asarray(np.abs(answers - wanted) <= CLOSE * (np.std(wanted.astype(np.float64)) or 1.0))
