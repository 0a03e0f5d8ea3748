"""No training: statistics re-estimated on the matter, layer after layer; gains and biases only, free of any gradient.

For every column, the least-squares gain and offset that take what the layer answers, behind layers of matter, to what
the float model answers there; folded into the weights' scale and the bias, so that no level changes.

Source: AdaBS, Joshi et al. 2020, Nat. Commun. 11, 2473 (batch-norm statistics re-estimated on the device).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hyle_compiler.adapt.method import Adapted, Needs, Task
from hyle_compiler.adapt.segments import Segments, matter_of

__all__ = ["METHOD", "NoTraining"]

Array = np.ndarray[Any, Any]

NEEDS = Needs(frozenset({"layer reads"}), "ignored", False, "1, once")


@dataclass(frozen=True, slots=True)
class NoTraining:
    """Bias and gain correction from statistics.

    Attributes:
        instances: Devices of the twin that the statistics are averaged over; one where a device is attached.
        samples: Most samples that are used.
    """

    instances: int = 4
    samples: int = 256
    name: str = "none"
    summary: str = "no training: statistics re-estimated on the matter (AdaBS), gains and biases corrected"
    source: str = "Joshi et al. 2020, Nat. Commun. 11, 2473"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Measure and correct; contract: `Method.run`."""
        samples = task.samples.head(min(self.samples, len(task.samples)))
        segments = Segments(task)
        float_answers = segments.float_outputs(samples)
        devices = [matter_of(task, number) for number in range(1 if task.driver else self.instances)]
        runs = [segments.start(samples) for _ in devices]
        matrices, biases = {}, {}
        for layer in task.layers:
            name = layer.placed.layer.name
            xs = [segments.advance(run, name) for run in runs]
            wanted = float_answers[name]
            ys = [segments.read(device, name, x) for device, x in zip(devices, xs, strict=True)]
            gain, offset = _statistics(ys, wanted, segments.axis(name))
            for run, y in zip(runs, ys, strict=True):
                segments.answer(run, name, segments.scaled(name, y, gain, offset))
            matrices[name] = (layer.placed.layer.matrix * gain).astype(np.float32)
            biases[name] = (layer.placed.layer.bias * gain + offset).astype(np.float32)
        passes = len(samples) * len(devices)
        return Adapted(matrices, biases, "finished", passes, segments.distance(runs, samples))


def _statistics(ys: list[Array], wanted: Array, axis: int) -> tuple[Array, Array]:
    """Gain and offset a column that match mean and spread of all devices' answers to the float model's."""
    cols = wanted.shape[axis]
    flat = [np.moveaxis(y, axis, -1).reshape(-1, cols).astype(np.float64) for y in ys]
    target = np.moveaxis(wanted, axis, -1).reshape(-1, cols).astype(np.float64)
    mean = np.mean([y.mean(axis=0) for y in flat], axis=0)
    slopes = [
        ((y - y.mean(axis=0)) * (target - target.mean(axis=0))).mean(axis=0) / np.maximum(y.var(axis=0), 1e-20)
        for y in flat
    ]
    gain = np.clip(np.mean(slopes, axis=0), 0.5, 2.0)
    return gain, target.mean(axis=0) - gain * mean


METHOD = NoTraining()
