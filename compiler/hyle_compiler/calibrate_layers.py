"""Calibrate all layers of a model: once for those that see and hold the same, with weights clipped where that helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from hyle_substrates.profile import Profile

from hyle_compiler.activations import Observed
from hyle_compiler.calibrate import Calibrated, calibrate
from hyle_compiler.place import Placed, PlacedBlock

__all__ = ["calibrate_layers"]

CLIPS = (0.8, 0.65, 0.5)


def calibrate_layers(
    placed: Sequence[Placed],
    seen: Mapping[str, Observed],
    profile: Profile,
    *,
    copies: int | None,
    seed: int,
    clip: bool = False,
) -> tuple[Calibrated, ...]:
    """Calibrate every layer.

    Args:
        placed: The layers and their tiles.
        seen: What each sees, by name.
        profile: The target.
        copies: Most copies of a weight; None for as many as there is room for.
        seed: Seed of the write errors that choices expect.
        clip: Let the highest level stand for less than a column's largest weight, where the expected error is then
            smaller: the largest weights are cut and all others stand further above noise.
    """
    found: dict[object, Calibrated] = {}
    made = []
    for layer in placed:
        key = (*map(id, layer.layer.node.inputs), layer.layer.geometry)
        if key not in found:
            options = [layer, *(_clipped(layer, profile) if clip else ())]
            tried = [calibrate(option, seen[layer.layer.name], profile, copies, seed) for option in options]
            found[key] = min(tried, key=lambda calibrated: calibrated.error)
        made.append(replace(found[key], placed=_moved(found[key].placed, layer)))
    return tuple(made)


def _moved(chosen: Placed, layer: Placed) -> Placed:
    """The chosen levels on the layer's own tiles."""
    pairs = zip(chosen.blocks, layer.blocks, strict=True)
    return Placed(layer.layer, tuple(replace(block, tiles=own.tiles) for block, own in pairs))


def _clipped(placed: Placed, profile: Profile) -> Iterator[Placed]:
    """The layer with smaller ranges; none where weights are continuous or integers are the levels."""
    top = profile.weights.levels
    if not top or placed.layer.step is not None or not isinstance(placed.layer.matrix, np.ndarray):
        return
    for factor in CLIPS:
        blocks = []
        for block in placed.blocks:
            part = placed.layer.matrix[block.rows[0] : block.rows[1]]
            largest = block.top * np.float32(factor)
            levels = np.clip(np.rint(part / largest * np.float32(top)), -top, top).astype(block.levels.dtype)
            blocks.append(PlacedBlock(block.rows, levels, largest, block.tiles))
        yield Placed(placed.layer, tuple(blocks))
