"""What good answers are: classes are held by their probabilities, numbers by their distance in standard deviations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_bundle.scoring import choices, class_axis, labelled_axis, score

from hyle_compiler.adapt.method import AdaptError

__all__ = ["Goal", "Output", "Part", "floating_outputs", "goal_of", "rows"]

Array = np.ndarray[Any, Any]
TEMPERATURE = 2.0
SOFT_SHARE = 0.7
# Operators behind a softmax that leave probabilities what they are.
RESHAPING = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"}


@dataclass(frozen=True, slots=True)
class Output:
    """An output of floating type: its position among the model's, its name, and whether a softmax made it."""

    index: int
    name: str
    softmax: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One output's share of a sample's answers, which lie in one row.

    Attributes:
        shape: Of one sample's answer.
        axis: Axis of `shape` that counts classes; None where there are none.
        numbers: Whether the values themselves matter, not only which class they choose.
        spread: Variance of the float model's answers.
    """

    shape: tuple[int, ...]
    axis: int | None
    numbers: bool
    spread: float

    @property
    def size(self) -> int:
        """Values of one sample."""
        return math.prod(self.shape)

    @property
    def positions(self) -> int:
        """Choices of one class in one sample's answer."""
        return 1 if self.axis is None else self.size // self.shape[self.axis]

    def by_class(self, answers: Any) -> Any:
        """Lay answers (an array or a torch tensor, a row a sample) out as samples and positions by classes."""
        assert self.axis is not None
        shaped = answers.reshape(len(answers), *self.shape)
        order = [axis for axis in range(shaped.ndim) if axis != self.axis + 1]
        moved = shaped.permute if hasattr(shaped, "permute") else shaped.transpose
        return moved(*order, self.axis + 1).reshape(-1, self.shape[self.axis])


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """What is held: every output by the float model's answers, the first one by labels too where there are any.

    Attributes:
        parts: The outputs in order.
        labels: Of the first output, samples first: one class a sample or position, or numbers in the output's shape.
    """

    parts: tuple[Part, ...]
    labels: Array | None

    def split(self, answers: Any) -> list[Any]:
        """Cut rows of all answers into those of each output."""
        stops = np.cumsum([part.size for part in self.parts]).tolist()
        return [answers[:, stop - part.size : stop] for part, stop in zip(self.parts, stops, strict=True)]

    def loss(self, answers: Any, teacher: Any, labels: Any) -> Any:
        """0.3 error by the labels + 0.7 distance from the float model where there are labels, else the distance alone.

        Classes: cross-entropy, and distillation at temperature 2 (Hinton et al. 2015, arXiv 1503.02531). Numbers: mean
        square over the variance of the float model's answers. The mean over all outputs.

        Args:
            answers: A row a sample, as `rows` gives them; an array, or a torch tensor whose gradient is wanted.
            teacher: The float model's, of the same kind and shape.
            labels: The goal's for the same samples, or None.
        """
        said, wanted = self.split(answers), self.split(teacher)
        losses = [_distance(part, *pair) for part, *pair in zip(self.parts, said, wanted, strict=True)]
        if labels is not None:
            error = _error(self.parts[0], said[0], labels)
            losses[0] = (1.0 - SOFT_SHARE) * error + SOFT_SHARE * losses[0]
        return sum(losses) / len(losses)

    def right(self, answers: Array, teacher: Array, labels: Array | None) -> float:
        """Share of the first output's answers that are right (`scoring`), by labels or as the float model's."""
        shape = (-1, *self.parts[0].shape)
        said, wanted = (self.split(one)[0].reshape(shape) for one in (answers, teacher))
        return score(said, choices(wanted) if labels is None else labels)


def _distance(part: Part, said: Any, wanted: Any) -> Any:
    loss = ((said - wanted) ** 2).mean() / part.spread if part.numbers else 0.0
    if part.axis is None:
        return loss
    soft, hoped = (_log_softmax(part.by_class(one) / TEMPERATURE) for one in (said, wanted))
    return loss + TEMPERATURE**2 * (_exp(hoped) * (hoped - soft)).sum(-1).mean()


def _error(part: Part, said: Any, labels: Any) -> Any:
    if part.axis is None:
        return ((said - labels.reshape(said.shape)) ** 2).mean() / part.spread
    asked = labels.reshape(-1)
    logs = _log_softmax(part.by_class(said)).reshape(len(said), part.positions, -1)[:, : labels[0].reshape(-1).shape[0]]
    return -logs.reshape(len(asked), -1)[range(len(asked)), asked].mean()


def _log_softmax(x: Any) -> Any:
    if hasattr(x, "log_softmax"):
        return x.log_softmax(-1)
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _exp(x: Any) -> Any:
    return x.exp() if hasattr(x, "exp") else np.exp(x)


def floating_outputs(model: ir.Model) -> list[Output]:
    """The outputs that can be learnt.

    Raises:
        AdaptError: There are none.
    """
    found = [
        Output(index, str(value.name), _softmax(value))
        for index, value in enumerate(model.graph.outputs)
        if value.dtype is not None and value.dtype.is_floating_point()
    ]
    if not found:
        remedy = "Export the model with its scores as the first output."
        raise AdaptError(
            "None of the model's outputs is of a floating type, so nothing says how far off it is.", remedy=remedy
        )
    return found


def rows(outputs: Sequence[Output], answers: Sequence[Array], samples: int) -> Array:
    """Put all outputs of one sample into one row; probabilities as their logarithms.

    Args:
        outputs: The outputs.
        answers: Their values, samples first.
        samples: How many samples there are.
    """
    flat = [a.astype(np.float64).reshape(samples, -1) for a in answers]
    logs = [np.log(np.maximum(a, 1e-12)) if o.softmax else a for o, a in zip(outputs, flat, strict=True)]
    return np.concatenate(logs, axis=1)


def goal_of(outputs: Sequence[Output], answers: Sequence[Array], count: int, labels: Array | None) -> Goal:
    """Decide what is held, from the float model's answers to `count` samples and the labels of all.

    Integer labels are classes where the first output has as many axes of classes as they need, and numbers where it
    has none; 0 and 1 for a single score say on which side of a threshold it lies, which the float model's own score
    says better. Without labels scores are held by class and by value, as nothing says which of the two they are.

    Raises:
        AdaptError: Answers that do not count samples, or labels that do not fit them.
    """
    if any(a.shape[:1] != (count,) for a in answers):
        remedy = "Give a model each of whose outputs counts samples along its first axis."
        raise AdaptError("The model's answers do not count samples.", remedy=remedy)
    parts = [_part(output, a) for output, a in zip(outputs, answers, strict=True)]
    if labels is None:
        return Goal(tuple(parts), None)
    first, labels = _labelled(parts[0], labels, outputs[0].index)
    return Goal((first, *parts[1:]), labels)


def _part(output: Output, answers: Array) -> Part:
    shape = answers.shape[1:]
    axis = (class_axis(answers.shape) % answers.ndim) - 1 if shape else None
    classes = axis is not None and shape[axis] > 1
    spread = float(np.var(answers.astype(np.float64))) or 1.0
    return Part(shape, axis if classes else None, not (classes and output.softmax), spread)


def _labelled(part: Part, labels: Array, index: int) -> tuple[Part, Array | None]:
    whole = bool(labels.dtype.kind in "iub")
    if index:
        raise AdaptError("Labels are of the first output, which is of no floating type.", remedy="Leave them out.")
    if labels.dtype.kind not in "iubf":
        raise AdaptError(f"Labels of {labels.dtype} are neither classes nor numbers.", remedy=REMEDY)
    if not np.isfinite(labels).all():
        raise AdaptError("Labels are not all finite.", remedy=REMEDY)
    axis = _axis_for(part.shape, labels) if whole else None
    if axis is not None:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= part.shape[axis]:
            raise AdaptError(
                f"Labels run from {low} to {high}; the model has {part.shape[axis]} classes.", remedy=REMEDY
            )
        return Part(part.shape, axis, False, part.spread), labels.astype(np.int64)
    if labels[0].size != part.size or (whole and part.size > 1):
        what = f"Labels of {labels.dtype} in the shape {labels.shape} do not fit answers of {part.shape}."
        raise AdaptError(what, remedy=REMEDY)
    if whole and np.isin(labels, (0, 1)).all():
        return part, None
    return Part(part.shape, None, True, part.spread), labels.astype(np.float64)


def _axis_for(shape: tuple[int, ...], labels: Array) -> int | None:
    """Axis of classes such that labels are one a position, or one a sample for its first position."""
    if not shape:
        return None
    found = labelled_axis((len(labels), *shape), labels.shape)
    if found is None and labels[0].size == 1:
        found = len(shape)
    return None if found is None or shape[found - 1] == 1 else found - 1


def _softmax(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in RESHAPING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Softmax"


REMEDY = "Give one class a sample (from 0 to the number of classes less one) or position, or numbers as the outputs."
