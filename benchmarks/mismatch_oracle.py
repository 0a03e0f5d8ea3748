"""The bound of bench_mismatch: noise-aware training on a twin that knows every gain of one device."""

from __future__ import annotations

import math

import numpy as np
import torch
from hyle_compiler.adapt.in_silico import METHOD
from hyle_compiler.adapt.matter import Drawn, corrected
from hyle_compiler.adapt.method import Adapted, Task
from hyle_compiler.adapt.torch_view import Held, PhysicalLayer
from hyle_compiler.adapt.training import Batch, Descent, Loop, objective
from hyle_substrates.mismatch import Mismatch
from hyle_substrates.twin import TwinDriver

__all__ = ["Known", "oracle"]


class Known(Drawn):
    """Devices drawn anew around the gains of one."""

    def __init__(self, task: Task, mismatch: Mismatch, seed: int, generator: torch.Generator) -> None:
        super().__init__(task.profile, task.compensation, generator)
        exact = TwinDriver(task.profile, seed, exact=True, noiseless=True, mismatch=mismatch)
        self._gains: dict[str, list[torch.Tensor]] = {}
        for layer in task.layers:
            rows = [block.rows[1] - block.rows[0] for block in layer.placed.blocks]
            self._gains[layer.placed.layer.name] = [
                _mean_gain(exact, task, block, (layer.row_copies, r, layer.col_copies))
                for block, r in zip(layer.placed.blocks, rows, strict=True)
            ]

    def hold(self, layer: PhysicalLayer) -> Held:
        """One instance of a layer, with the gains of the device."""
        found = [
            (self._instance(layer, number, targets) * gain, targets, top)
            for number, ((targets, top), gain) in enumerate(zip(layer.relative(), self._gains[layer.name], strict=True))
        ]
        return corrected(layer, found, self._compensation, self._moments)


def _mean_gain(exact: TwinDriver, task: Task, block: object, shape: tuple[int, int, int]) -> torch.Tensor:
    row_copies, rows, col_copies = shape
    columns = []
    for tile in block.tiles:  # type: ignore[attr-defined]
        width = (tile.cols[1] - tile.cols[0]) * col_copies
        exact.program(tile.index, np.full((row_copies * rows, width), task.profile.weights.levels, np.int32))
        gains = exact.weights(tile.index) * task.profile.weight_unit
        columns.append(gains.reshape(row_copies, rows, col_copies, -1).mean(axis=(0, 2)))
    return torch.tensor(np.concatenate(columns, axis=1), dtype=torch.float32)


def oracle(task: Task, mismatch: Mismatch, seed: int) -> Adapted:
    """Train as in silico does, with what no method can know."""
    loop = Loop(task, METHOD.epochs)
    matter = Known(task, mismatch, seed, loop.generator)
    loop.view.put(matter)
    pace = loop.pace()
    descent = Descent(loop.view, METHOD.rate / 2, pace, METHOD.clip)

    def step(batch: Batch) -> float:
        loss = objective(loop.view.logits(*batch.inputs), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        descent.apply()
        return float(loss.detach())

    def measured() -> float:
        with torch.no_grad():
            losses = []
            for _ in range(3):
                matter.renew()
                losses.append(float(objective(loop.view.logits(*loop.kept.inputs), loop.kept)))
        return math.fsum(losses) / len(losses)

    return loop.run(step, matter, pace=pace, evaluate=measured)
