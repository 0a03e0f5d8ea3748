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

__all__ = [
    "ColumnScale",
    "Placed",
    "PlacedBlock",
    "PlacedTile",
    "Spans",
    "column_scale",
    "lay_out",
    "level_type",
    "place",
    "quantise",
    "scaled",
]

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


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Where a layer lies: its blocks' rows, and each block's tiles."""

    layer: Candidate
    blocks: tuple[tuple[Span, tuple[PlacedTile, ...]], ...]


def lay_out(layers: Sequence[Candidate], profile: Profile) -> tuple[Spans, ...]:
    """Split every layer over tiles of the profile's size, from the shapes alone; errors as for `place`."""
    found: list[Spans] = []
    index = 0
    for layer in layers:
        blocks: list[tuple[Span, tuple[PlacedTile, ...]]] = []
        rows, cols = layer.matrix.shape
        spans = _split(cols, profile.array.cols)
        for span in _row_spans(layer, rows, profile.array.rows):
            blocks.append((span, tuple(PlacedTile(index + i, span, part) for i, part in enumerate(spans))))
            index += len(spans)
        found.append(Spans(layer, tuple(blocks)))
    if profile.array.tiles and index > profile.array.tiles:
        raise PlacementError(
            f"The model needs {index} tiles; {profile.name} has {profile.array.tiles}.",
            remedy="Spread it over several (--devices), or choose a smaller model or a larger target (`hyle targets`).",
        )
    return tuple(found)


def place(layers: Sequence[Candidate], profile: Profile) -> tuple[Placed, ...]:
    """Split every layer over tiles of the profile's size, rows and columns as evenly as they divide, and quantise it.

    Raises:
        PlacementError: The chip has too few tiles.
    """
    placed = []
    for spans in lay_out(layers, profile):
        blocks = []
        for (start, stop), tiles in spans.blocks:
            levels, top = quantise(spans.layer.matrix[start:stop], profile, spans.layer.step)
            blocks.append(PlacedBlock((start, stop), levels, top, tiles))
        placed.append(Placed(spans.layer, tuple(blocks)))
    return tuple(placed)


def quantise(matrix: Float32s, profile: Profile, step: Float32s | None = None) -> tuple[np.ndarray[Any, Any], Float32s]:
    """Turn weights (rows by columns) into levels and the weight of the highest level, one a column.

    Levels are int8 or int16, float32 where the substrate is continuous. Where `step` says what one integer of each
    column stands for and the substrate has as many levels, the integers are the levels.
    """
    scale = column_scale(np.abs(matrix).max(axis=0), profile, step)
    levels = scaled(np.asarray(matrix), scale)
    if profile.weights.levels == 0:
        return np.ascontiguousarray(levels), scale.top
    return levels.astype(level_type(profile)), scale.top


@dataclass(frozen=True, slots=True, eq=False)
class ColumnScale:
    """How the weights of each column become levels.

    `top` is the weight of the highest level; a level is the weight over `step` where that is given, else the weight
    over `top` times `levels`; 0 levels leave weights as they are.
    """

    top: Float32s
    step: Float32s | None
    levels: int


def column_scale(largest: Float32s, profile: Profile, step: Float32s | None = None) -> ColumnScale:
    """Choose the scales from the largest magnitude of each column."""
    if profile.weights.scale != "column" and largest.size:
        largest = np.full_like(largest, largest.max())
    levels = profile.weights.levels
    if levels == 0:
        return ColumnScale(np.ones_like(largest, dtype=np.float32), None, 0)
    integers = step is not None and profile.weights.scale == "column" and np.all(step > 0.0)
    if step is not None and integers and np.round(largest / step).max(initial=0.0) <= levels:
        return ColumnScale((step * np.float32(levels)).astype(np.float32), step, levels)
    top = np.where(largest > 0.0, largest, np.float32(1.0)).astype(np.float32)
    return ColumnScale(top, None, levels)


def scaled(matrix: Float32s, scale: ColumnScale) -> Float32s:
    """Levels of some rows, integer-valued float32."""
    if not scale.levels:
        return matrix
    if scale.step is not None:
        return np.round(matrix / scale.step)
    levels: Float32s = matrix / scale.top
    levels *= np.float32(scale.levels)
    return np.rint(levels, out=levels)


def level_type(profile: Profile) -> np.dtype[Any]:
    """How levels are stored."""
    levels = profile.weights.levels
    return np.dtype(np.int8 if 0 < levels <= 127 else np.int16 if levels else np.float32)


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
