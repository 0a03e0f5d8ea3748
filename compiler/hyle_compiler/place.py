"""Place layers on tiles: quantise weights to levels, split rows and columns, count tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from hyle_substrates.profile import Profile

from hyle_compiler.errors import PlacementError
from hyle_compiler.partition import Candidate

__all__ = ["Placed", "PlacedBlock", "PlacedTile", "place", "quantise"]

Float32s = np.ndarray[Any, np.dtype[np.float32]]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PlacedTile:
    """A rectangle of a layer on one tile; `index` counts over the whole model."""

    index: int
    rows: Span
    cols: Span


@dataclass(frozen=True, slots=True, eq=False)
class PlacedBlock:
    """Rows driven together.

    `levels` are the integer targets, rows by columns; `top` the weight that the highest level stands for, per column.
    """

    rows: Span
    levels: np.ndarray[Any, Any]
    top: Float32s
    tiles: tuple[PlacedTile, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A layer and where it lies."""

    layer: Candidate
    blocks: tuple[PlacedBlock, ...]

    @property
    def tiles(self) -> int:
        """How many tiles the layer occupies."""
        return sum(len(block.tiles) for block in self.blocks)


def place(layers: Sequence[Candidate], profile: Profile) -> tuple[Placed, ...]:
    """Split every layer over tiles of the profile's size, rows and columns as evenly as they divide.

    Raises:
        PlacementError: The chip has too few tiles.
    """
    placed: list[Placed] = []
    index = 0
    for layer in layers:
        blocks: list[PlacedBlock] = []
        rows, cols = layer.matrix.shape
        spans = _split(cols, profile.array.cols)
        for start, stop in _row_spans(layer, rows, profile.array.rows):
            levels, top = quantise(layer.matrix[start:stop], profile, layer.step)
            tiles = tuple(PlacedTile(index + i, (start, stop), span) for i, span in enumerate(spans))
            index += len(tiles)
            blocks.append(PlacedBlock((start, stop), levels, top, tiles))
        placed.append(Placed(layer, tuple(blocks)))
    if profile.array.tiles and index > profile.array.tiles:
        raise PlacementError(
            f"The model needs {index} tiles; {profile.name} has {profile.array.tiles}.",
            remedy="Choose a smaller model or a larger target (`hyle targets`).",
        )
    return tuple(placed)


def quantise(matrix: Float32s, profile: Profile, step: Float32s | None = None) -> tuple[np.ndarray[Any, Any], Float32s]:
    """Turn weights (rows by columns) into levels and the weight of the highest level, one a column.

    Levels are int8 or int16, float32 where the substrate is continuous. Where `step` says what one integer of each
    column stands for and the substrate has as many levels, the integers are the levels.
    """
    axis = 0 if profile.weights.scale == "column" else None
    largest = np.broadcast_to(np.abs(matrix).max(axis=axis), matrix.shape[1:]).astype(np.float32)
    if profile.weights.levels == 0:
        return np.ascontiguousarray(matrix, dtype=np.float32), np.ones_like(largest)
    top = np.where(largest > 0.0, largest, np.float32(1.0)).astype(np.float32)
    if step is not None and profile.weights.scale == "column" and np.all(step > 0.0):
        integers = np.round(matrix / step)
        if np.abs(integers).max(initial=0.0) <= profile.weights.levels:
            kind = np.int8 if profile.weights.levels <= 127 else np.int16
            return integers.astype(kind), (step * np.float32(profile.weights.levels)).astype(np.float32)
    kind = np.int8 if profile.weights.levels <= 127 else np.int16
    return np.round(matrix / top * np.float32(profile.weights.levels)).astype(kind), top


def _split(size: int, limit: int) -> list[Span]:
    parts = -(-size // limit)
    edges = [size * i // parts for i in range(parts + 1)]
    return list(pairwise(edges))


def _row_spans(layer: Candidate, rows: int, limit: int) -> list[Span]:
    """Spans of rows: for a convolution whole channels where a channel's kernel fits a tile."""
    if layer.geometry is None:
        return _split(rows, limit)
    kernel = int(np.prod(layer.geometry.kernel))
    if kernel <= limit:
        return [(a * kernel, b * kernel) for a, b in _split(rows // kernel, limit // kernel)]
    return [(c * kernel + a, c * kernel + b) for c in range(rows // kernel) for a, b in _split(kernel, limit)]
