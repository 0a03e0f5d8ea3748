"""Run a bundle layer by layer: segments by onnxruntime, layers by whoever holds them, control flow by the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from hyle_bundle.manifest import Control, Step, Subgraph

from hyle_runtime import sessions

__all__ = ["RunLayer", "Steps"]

Array = np.ndarray[Any, Any]
Known = dict[str, Any]
RunLayer = Callable[[str, Known], None]
MOST_TURNS = 2**63 - 1
NUMPY_NAMES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BOOL": "bool", "BYTES": "object"}


class Steps:
    """The steps of a bundle with their sessions.

    Args:
        folder: Where the segments lie.
        steps: The manifest's steps.
        layer: Runs one layer: reads its input among the known values and adds its output to them.
        threads: Threads for one operator; 0 for as many as there are cores.
    """

    def __init__(self, folder: Path, steps: Sequence[Step], layer: RunLayer, threads: int = 0) -> None:
        self._steps, self._layer = tuple(steps), layer
        self._sessions: dict[str, ort.InferenceSession] = {
            name: sessions.start(folder / name, threads=threads) for name in _segments(steps)
        }

    def run(self, inputs: Mapping[str, Any]) -> Known:
        """Run everything.

        Args:
            inputs: Values of the model's inputs by name.

        Returns:
            All values of the main graph that one step hands to another, and the outputs, by name.
        """
        known = dict(inputs)
        self._run(self._steps, known)
        return known

    def close(self) -> None:
        """Give the sessions back."""
        self._sessions.clear()

    def _run(self, steps: Sequence[Step], known: Known) -> None:
        for step in steps:
            if step.segment:
                feed = {name: known[name] for name in step.inputs}
                made = self._sessions[step.segment].run(list(step.outputs), feed)
                known.update(zip(step.outputs, made, strict=True))
            for name in step.layers:
                self._layer(name, known)
            for control in step.controls:
                known.update(zip(control.outputs, CONTROLS[control.kind](self, control, known), strict=True))

    def _body(self, body: Subgraph, outer: Known, inputs: Sequence[Any]) -> list[Any]:
        known = {**outer, **dict(zip(body.inputs, inputs, strict=True))}
        self._run(body.steps, known)
        return [known[name] for name in body.outputs]

    def _if(self, control: Control, known: Known) -> list[Any]:
        chosen = control.bodies[0 if bool(np.reshape(known[control.inputs[0]], ())) else 1]
        return self._body(chosen, known, ())

    def _loop(self, control: Control, known: Known) -> list[Any]:
        trips, going, *state = [known[name] if name else None for name in control.inputs]
        most = MOST_TURNS if trips is None else int(np.reshape(trips, ()))
        proceed, turn = True if going is None else bool(np.reshape(going, ())), 0
        slices: list[list[Array]] = [[] for _ in control.stacked]
        while proceed and turn < most:
            given = (np.array(turn, dtype=np.int64), np.array(proceed), *state)
            condition, *made = self._body(control.bodies[0], known, given)
            state, rows = made[: len(state)], made[len(state) :]
            for kept, row in zip(slices, rows, strict=True):
                kept.append(row)
            proceed, turn = bool(np.reshape(condition, ())), turn + 1
        return [*state, *_stacked(control, slices)]

    def _scan(self, control: Control, known: Known) -> list[Any]:
        values = [known[name] for name in control.inputs]
        count = len(control.input_axes)
        state, sequences = values[: len(values) - count], values[len(values) - count :]
        cut = [
            np.flip(np.moveaxis(array, axis, 0), 0) if backwards else np.moveaxis(array, axis, 0)
            for array, axis, backwards in zip(sequences, control.input_axes, control.input_directions, strict=True)
        ]
        slices: list[list[Array]] = [[] for _ in control.stacked]
        for turn in range(len(cut[0])):
            rows = [np.ascontiguousarray(array[turn]) for array in cut]
            made = self._body(control.bodies[0], known, (*state, *rows))
            state = made[: len(state)]
            for kept, row in zip(slices, made[len(state) :], strict=True):
                kept.append(row)
        return [*state, *_stacked(control, slices)]


def _stacked(control: Control, slices: Sequence[Sequence[Array]]) -> Iterator[Array]:
    """Put the slices of every stacked output side by side, as the control says."""
    axes = control.output_axes or (0,) * len(slices)
    directions = control.output_directions or (0,) * len(slices)
    for info, rows, axis, backwards in zip(control.stacked, slices, axes, directions, strict=True):
        if rows:
            joined = np.stack(rows[::-1] if backwards else rows)
        else:
            kind = NUMPY_NAMES.get(info.datatype, info.datatype.lower())
            joined = np.zeros((0, *(max(size, 0) for size in info.shape)), dtype=kind)
        yield np.ascontiguousarray(np.moveaxis(joined, 0, axis))


def _segments(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        if step.segment:
            yield step.segment
        for control in step.controls:
            for body in control.bodies:
                yield from _segments(body.steps)


CONTROLS: dict[str, Callable[[Steps, Control, Known], list[Any]]] = {
    "if": Steps._if,
    "loop": Steps._loop,
    "scan": Steps._scan,
}
