"""How many answers are right: against labels, or against the choices of a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from hyle_errors import CallerError

__all__ = ["LabelsError", "choices", "class_axis", "classes_of", "labelled_axis", "rights", "score", "wanted_of"]

Array = np.ndarray[Any, Any]
CLOSE = 0.1
IMAGE_RANK = 4
WORDS = "OSU"


class LabelsError(CallerError):
    """Labels that a model's answers cannot be held against."""


def choices(answers: Array) -> Array:
    """What a model chooses, to be compared with another's choices.

    Args:
        answers: Samples first.

    Returns:
        The largest of the classes, which are the last axis, or the second of maps (four axes and more), one a sample
        and position. Integers, and answers without an axis of classes, are themselves.
    """
    axis = class_axis(answers.shape)
    if answers.dtype.kind not in "fc" or answers.ndim < 2 or answers.shape[axis] == 1:
        return answers
    return np.asarray(answers.argmax(axis=axis))


def wanted_of(answers: Array, labels: Array | None) -> Array:
    """What the float model's answers are held against: its own choices, or labels that its kind of answer can meet.

    Args:
        answers: The float model's, samples first.
        labels: What the samples bring, samples first; rows that are one-hot stand for their classes.

    Raises:
        LabelsError: No answer could ever be one of the labels.
    """
    if labels is None:
        return choices(answers)
    _check_kind(answers, labels)
    labels = classes_of(answers, labels)
    if answers.size != labels.size:
        _check_classes(labels, _chosen(answers, labels)[1])
    return labels


def _check_kind(answers: Array, labels: Array) -> None:
    """Words for words, numbers for numbers."""
    words = answers.dtype.kind in WORDS
    if labels.dtype.kind not in (WORDS if words else "iufb"):
        wants = "words" if words else "numbers"
        raise LabelsError(
            f"`labels` are {labels.dtype}; the model answers with {wants}.",
            remedy="Give the model's own words." if words else "Give the classes' indices, integers from 0.",
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise LabelsError("`labels` hold NaN or infinite values.", remedy="Remove those samples.")


def classes_of(answers: Array, labels: Array) -> Array:
    """Labels as they are, but those that are one-hot along the answers' axis of classes as classes; samples first."""
    axis = class_axis(answers.shape)
    shaped = answers.ndim > 1 and labels.shape[1:] == answers.shape[1:] and labels.shape[axis] > 1
    if answers.dtype.kind not in "fc" or not shaped or labels.dtype.kind not in "iufb":
        return labels
    if not (np.isin(labels, (0, 1)).all() and (np.sum(labels, axis=axis) == 1).all()):
        return labels
    return np.asarray(labels.argmax(axis=axis))


def _check_classes(labels: Array, classes: int) -> None:
    low, high = labels.min(), labels.max()
    if low < 0 or high >= classes or (labels.dtype.kind == "f" and (labels != np.round(labels)).any()):
        raise LabelsError(
            f"`labels` run from {low} to {high}; the model tells {classes} classes apart.",
            remedy=f"Give the classes' indices in the model's output, integers from 0 to {classes - 1}.",
        )


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
        LabelsError: The two do not fit each other.
    """
    return np.asarray(_hits(answers, wanted).reshape(len(wanted), -1).mean(axis=1, dtype=np.float64))


def _hits(answers: Array, wanted: Array) -> Array:
    if answers.size == wanted.size:
        return _values(answers.reshape(-1), wanted.reshape(-1))
    return np.asarray(_chosen(answers, wanted)[0] == _squeezed(wanted))


def _chosen(answers: Array, wanted: Array) -> tuple[Array, int]:
    """The classes of answers where labels ask for them, and how many classes there are."""
    axis = None if answers.dtype.kind in WORDS else labelled_axis(answers.shape, wanted.shape)
    if axis is not None:
        return _squeezed(answers.argmax(axis=axis)), answers.shape[axis]
    if answers.dtype.kind not in WORDS and answers.ndim > 1 and wanted.size == len(wanted):
        first = answers.reshape(len(wanted), -1, answers.shape[-1])[:, 0].argmax(axis=-1)
        return first, answers.shape[-1]
    raise LabelsError(
        f"`labels` of shape {wanted.shape} do not fit answers of shape {answers.shape}.",
        remedy="Give one class a sample, or one a position in the shape of the answers without their classes.",
    )


def labelled_axis(shape: tuple[int, ...], labels: tuple[int, ...]) -> int | None:
    """Axis of answers that counts classes if labels are one a position, from their shapes; None if they are not."""
    wanted = _without_ones(labels)
    for axis in dict.fromkeys((class_axis(shape) % len(shape), len(shape) - 1, 1)):
        if 0 < axis < len(shape) and _without_ones(shape[:axis] + shape[axis + 1 :]) == wanted:
            return axis
    return None


def class_axis(shape: tuple[int, ...]) -> int:
    """Axis of answers that counts classes, if any does: the second of maps (four axes and more), else the last."""
    return 1 if len(shape) >= IMAGE_RANK else -1


def _squeezed(values: Array) -> Array:
    return values.reshape(_without_ones(values.shape))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Samples first, without the other axes of one entry."""
    return (shape[0], *[size for size in shape[1:] if size != 1])


def _values(answers: Array, wanted: Array) -> Array:
    if answers.dtype.kind not in "fc":
        return np.asarray(answers == wanted)
    if wanted.dtype.kind in "iub" and np.isin(wanted, (0, 1)).all():
        edge = 0.5 if answers.min(initial=0.0) >= 0.0 and answers.max(initial=0.0) <= 1.0 else 0.0
        return np.asarray((answers > edge) == wanted.astype(bool))
    return np.asarray(np.abs(answers - wanted) <= CLOSE * (np.std(wanted.astype(np.float64)) or 1.0))
