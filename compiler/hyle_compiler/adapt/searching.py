"""What methods of the loss alone search over: a gain and an offset a column, digital, so that nothing is rewritten."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hyle_substrates.twin import TwinDriver

from hyle_compiler.adapt.checkpoint import Checkpoint
from hyle_compiler.adapt.goal import rows
from hyle_compiler.adapt.method import Adapted, AdaptError, Outcome, Task
from hyle_compiler.adapt.segments import DeviceLayers, Segments, matter_of
from hyle_compiler.progress import Advance
from hyle_compiler.samples import Samples

__all__ = ["Search"]

Array = np.ndarray[Any, Any]
INSTANCES = 4
DIVERGED = 10.0


class Search:
    """Losses of the task on its device (or on four twins), for vectors of knobs around zero.

    A knob of 0 changes nothing; a gain's knob is relative, an offset's in standard deviations of its column.

    A checkpoint holds every loss so far, in order. Searching on from it is searching anew, but that these are not
    measured again: all that a method does follows from its seed and its losses, and a twin's noise from the number of
    the loss. On twins the result is, to the bit, that of a search that nobody interrupted.

    Args:
        task: The task.
        method: Who searches, with all its settings in its `repr`.
        layers: Names of the layers whose columns are turned; all by default.
    """

    def __init__(self, task: Task, method: object, layers: Iterable[str] | None = None) -> None:
        self.task = task
        self._segments = Segments(task)
        self._names = [c.placed.layer.name for c in task.layers]
        self._turned = list(self._names if layers is None else layers)
        self._devices: list[DeviceLayers] = [matter_of(task, i) for i in range(1 if task.driver else INSTANCES)]
        rng = np.random.default_rng(task.seed)
        order = rng.permutation(len(task.samples))
        if len(order) < 2:
            raise AdaptError("One sample is not enough to train on.", remedy="Give more samples.")
        held = max(1, len(order) // 4)
        some = _pick(task.samples, order[: min(256, len(order))])
        self._samples = replace(task.samples, labels=task.goal.labels)
        self._kept, self._learnt = _pick(self._samples, order[:held]), order[held:]
        outputs = self._segments.float_outputs(some)
        self._spread = {n: _spread(_by_column(outputs[n], self._segments.axis(n))) for n in self._names}
        self._columns = {n: len(self._spread[n]) for n in self._names}
        self.size = 2 * sum(self._columns[n] for n in self._turned)
        self.passes = 0
        self.history: list[float] = []
        self._began = time.monotonic()
        self._best, self._least = np.zeros(self.size), math.inf
        self._rng = rng
        self._checkpoint = Checkpoint(task)
        self._who = _digest(task, method)
        kept = self._checkpoint.read({"knobs": (self.size,)}) or {}
        self._measured: list[float] = []
        self._known = self._losses_of(kept)
        self.consider(np.zeros(self.size))
        if kept and not self._known:
            self.consider(kept["knobs"])

    def batch(self) -> Samples:
        """Some samples to learn from."""
        size = min(self.task.budget.batch, len(self._learnt))
        return _pick(self._samples, self._rng.choice(self._learnt, size, replace=False))

    def loss(self, knobs: Array, samples: Samples, device: int) -> float:
        """Loss of one device for a vector of knobs."""
        self.passes += len(samples)
        number = len(self._measured)
        now = self._known[number] if number < len(self._known) else self._measure(knobs, samples, device)
        self._measured.append(now)
        return now

    def _measure(self, knobs: Array, samples: Samples, device: int) -> float:
        layers = self._devices[device % len(self._devices)]
        if isinstance(layers.driver, TwinDriver):
            layers.driver.seed_reads(len(self._measured))
        logits = self._logits(knobs, samples, layers)
        wanted = rows(self._segments.outputs, self._segments.float_answers(samples), len(samples))
        return float(self.task.goal.loss(logits, wanted, samples.labels))

    def _losses_of(self, kept: Mapping[str, Array]) -> list[float]:
        """The losses that a checkpoint holds; none in one that holds knobs alone."""
        if "losses" not in kept:
            return []
        if str(kept["search"]) != self._who:
            raise AdaptError(
                f"{self.task.checkpoint} is of another search: its method, settings, seed or samples differ.",
                remedy="Give those again to go on with it, or another path to begin anew.",
            )
        return [float(loss) for loss in kept["losses"]]

    def _keep(self) -> None:
        if len(self._measured) >= len(self._known):
            losses, who = np.array(self._measured), np.array(self._who)
            self._checkpoint.write({"knobs": self._best, "losses": losses, "search": who})

    def consider(self, knobs: Array) -> bool:
        """Measure the held-out loss over all devices, keep the best; False when it is time to stop."""
        now = float(np.mean([self.loss(knobs, self._kept, i) for i in range(len(self._devices))]))
        self.history.append(now)
        first = self.history[0]
        if now < self._least:
            self._best, self._least = knobs.copy(), now
        if len(self.history) > 1:
            self._keep()
        self.task.progress(
            Advance(
                "adapting",
                done=len(self.history) - 1,
                total=0,
                loss=now,
                best=self._least,
                passes=self.passes,
            )
        )
        if not math.isfinite(now) or now > DIVERGED * max(first, 1.0):
            self.outcome: Outcome = "diverged"
            return False
        return time.monotonic() - self._began < self.task.budget.seconds

    def result(self, outcome: Outcome) -> Adapted:
        """The best knobs, folded into weights' scales and biases."""
        self._keep()
        gains, offsets = self._split(self._best)
        matrices, biases = {}, {}
        for calibrated in self.task.layers:
            layer = calibrated.placed.layer
            gain, offset = gains.get(layer.name, 1.0), offsets.get(layer.name, 0.0)
            matrices[layer.name] = (layer.matrix * gain).astype(np.float32)
            biases[layer.name] = (layer.bias * gain + offset).astype(np.float32)
        better = self._least < self.history[0]
        notes = () if better else ("nothing lowered the held-out loss: the weights are as they were",)
        diverged = getattr(self, "outcome", outcome)
        return Adapted(matrices, biases, diverged, self.passes, self._least, tuple(self.history), notes)

    def _logits(self, knobs: Array, samples: Samples, device: DeviceLayers) -> Array:
        gains, offsets = self._split(knobs)
        run = self._segments.start(samples)
        for name in self._names:
            y = self._segments.read(device, name, self._segments.advance(run, name))
            if name in gains:
                y = self._segments.scaled(name, y, gains[name], offsets[name])
            self._segments.answer(run, name, y)
        return rows(self._segments.outputs, self._segments.finals(run), len(samples))

    def _split(self, knobs: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        gains, offsets, at = {}, {}, 0
        for name in self._turned:
            cols = self._columns[name]
            gains[name] = 1.0 + knobs[at : at + cols]
            offsets[name] = knobs[at + cols : at + 2 * cols] * self._spread[name]
            at += 2 * cols
        return gains, offsets


def _digest(task: Task, method: object) -> str:
    """What a search's course follows from, but for the model and the target, which a checkpoint knows itself."""
    words = (method, task.seed, task.budget.batch, task.compensation, INSTANCES, task.driver is not None)
    digest = hashlib.sha256(repr(words).encode())
    labels = {} if task.samples.labels is None else {"labels": task.samples.labels}
    for name, array in sorted((task.samples.arrays | labels).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _spread(y: Array) -> Array:
    """Standard deviation of every column, none of which is nothing beside the others."""
    std = y.std(axis=0, dtype=np.float64)
    return np.asarray(std + 1e-6 * (float(std.max(initial=0.0)) or 1.0))


def _by_column(y: Array, axis: int) -> Array:
    return np.moveaxis(y, axis, -1).reshape(-1, y.shape[axis])


def _pick(samples: Samples, which: Array) -> Samples:
    labels = None if samples.labels is None else samples.labels[which]
    return Samples({name: array[which] for name, array in samples.arrays.items()}, labels)
