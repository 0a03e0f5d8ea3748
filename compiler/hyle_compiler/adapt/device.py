"""A device as matter of a torch view: written now and then, read on every pass."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from hyle_substrates.driver import Driver, SimulatedMatter
from hyle_substrates.host import unit_probe

from hyle_compiler.adapt.matter import corrected
from hyle_compiler.adapt.method import Task
from hyle_compiler.adapt.segments import DeviceLayers
from hyle_compiler.adapt.torch_view import Held, PhysicalLayer
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.place import PlacedBlock, quantise

__all__ = ["OnDevice"]

Tensor: TypeAlias = torch.Tensor


class OnDevice:
    """Layers as one device holds them.

    Weights that moved since the last write act as if the move had been written exactly; `write` makes it true. A
    simulated device shows its weights, so that torch multiplies by them; any other is driven through its converters.

    Args:
        task: The task; its layers are written first.
        driver: The device.
    """

    def __init__(self, task: Task, driver: Driver) -> None:
        self._task, self._driver = task, driver
        self._device = DeviceLayers(task, driver)
        self._written = {c.placed.layer.name: c for c in task.layers}
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._held: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self._matrices: dict[str, Tensor] = {
            name: torch.tensor(np.ascontiguousarray(c.placed.layer.matrix)) for name, c in self._written.items()
        }
        self._shown = isinstance(driver, SimulatedMatter)
        self.passes = 0

    def renew(self) -> None:
        """A device stays what it is."""

    def look(self) -> None:
        """Measure again what the device holds, after it has aged."""
        self._held.clear()
        self._device.correct()

    def write(self, layers: list[PhysicalLayer]) -> None:
        """Write the layers' present weights and measure their corrections anew."""
        self._held.clear()
        for layer in layers:
            calibrated = _with_matrix(self._written[layer.name], layer)
            self._device.write(calibrated)
            self._written[layer.name] = calibrated
            self._matrices[layer.name] = layer.matrix.detach().clone()
        self._device = _recalibrated(self._device, self._task, self._written)

    def probed(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """What one row after another answers, and what was written there (highest weight = 1), a block, by layer.

        Answers are in units of their own, the same for all of a block.
        """
        unit = self._task.profile.weight_unit
        found = {}
        for name, calibrated in self._written.items():
            answers = unit_probe(self._driver, self._device.hosts[name].blocks, self._device.profile.dac.levels)
            found[name] = [
                (torch.tensor(np.asarray(said, np.float32)), torch.tensor(block.levels.astype(np.float32) * unit))
                for said, block in zip(answers, calibrated.placed.blocks, strict=True)
            ]
        return found

    def answers(self, layer: PhysicalLayer, x: Tensor) -> Tensor | None:
        """Drive the device, and add what moved since the last write; None for a device that shows its weights."""
        self.passes += len(x)
        if self._shown:
            return None
        name = layer.name
        said = self._device.hosts[name].run(self._driver, self._device.profile, x.detach().numpy())
        moved = layer.product(x, layer.matrix.detach() - self._matrices[name])
        wrote = torch.tensor(np.array(self._written[name].placed.layer.bias, dtype=np.float32))
        return torch.tensor(said) + moved + layer.per_column(layer.bias.detach() - wrote)

    def hold(self, layer: PhysicalLayer) -> Held:
        """The device's weights, corrected as the agent will correct them."""
        if layer.name not in self._held:
            self._held[layer.name] = self._show(layer)
        held = []
        for (weights, wrote, top), (start, stop) in zip(self._held[layer.name], layer.spans, strict=True):
            moved = (layer.matrix.detach()[start:stop] - self._matrices[layer.name][start:stop]) / top
            held.append((weights + moved, wrote + moved, top))
        return corrected(layer, held, self._task.compensation, self._moments)

    def _show(self, layer: PhysicalLayer) -> list[tuple[Tensor, Tensor, Tensor]]:
        calibrated, matter = self._written[layer.name], self._driver
        assert isinstance(matter, SimulatedMatter)
        unit = self._task.profile.weight_unit
        found = []
        for block in calibrated.placed.blocks:
            rows = block.rows[1] - block.rows[0]
            tiles = [
                matter.weights(tile.index)
                .reshape(calibrated.row_copies, rows, calibrated.col_copies, -1)
                .mean(axis=(0, 2))
                for tile in block.tiles
            ]
            held = torch.tensor(np.concatenate(tiles, axis=1) * np.float32(unit))
            levels = torch.tensor(block.levels.astype(np.float32) * np.float32(unit))
            found.append((held, levels, torch.tensor(np.array(block.top))))
        return found


def _with_matrix(calibrated: Calibrated, layer: PhysicalLayer) -> Calibrated:
    """The same layer in the same place and ranges, with the weights of now."""
    matrix = layer.matrix.detach().numpy()
    candidate = replace(calibrated.placed.layer, matrix=matrix.copy(), bias=layer.bias.detach().numpy().copy())
    blocks, gains = [], []
    code = np.float32(layer.profile.adc_unit / layer.profile.swing / calibrated.row_copies)
    for block in calibrated.placed.blocks:
        levels, top = quantise(matrix[block.rows[0] : block.rows[1]], layer.profile)
        blocks.append(PlacedBlock(block.rows, levels, top, block.tiles))
        gains.append(top * code)
    vectors = calibrated.codes.astype(np.float32) * (calibrated.scales * np.float32(layer.profile.dac_unit))[:, None]
    placed = replace(calibrated.placed, layer=candidate, blocks=tuple(blocks))
    return replace(
        calibrated,
        placed=placed,
        gain=np.stack(gains).astype(np.float32),
        offset=candidate.bias,
        wanted=(vectors @ matrix).astype(np.float32),
    )


def _recalibrated(device: DeviceLayers, task: Task, written: dict[str, Calibrated]) -> DeviceLayers:
    """Measure corrections for the layers as they are written now."""
    device.retarget(replace(task, layers=tuple(written.values())))
    device.correct()
    return device
