"""One pass over a layer's matrix: answers of the float model and its twins, and levels, written as they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_bundle import TensorWriter
from hyle_bundle.manifest import Layer
from hyle_runtime.placement import operator_layout
from hyle_substrates import io
from hyle_substrates.profile import Profile

from hyle_compiler.matrices import chunks, require_finite, rows_of
from hyle_compiler.place import ColumnScale, PlacedBlock, Spans, column_scale, scaled
from hyle_compiler.stream.feed import Feed

__all__ = ["Passed", "pass_over"]

Array = np.ndarray[Any, Any]
Float32s = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """What a pass found.

    `floats` and `twins` are the answers to each feed without bias, vectors by columns; `blocks` the layer's blocks
    with their scales but without their levels; `picked` each block's levels in the picked columns.
    """

    floats: list[Float32s]
    twins: list[Float32s]
    blocks: tuple[PlacedBlock, ...]
    picked: tuple[Array, ...]
    nonzero: int


def pass_over(
    spans: Spans,
    layer: Layer,
    profile: Profile,
    floats: Sequence[Feed],
    twins: Sequence[Feed],
    picks: Array,
    writer: TensorWriter,
) -> Passed:
    """Read the matrix once.

    Args:
        spans: The layer and where it lies.
        layer: The manifest's words for it.
        profile: The target.
        floats: What the float model drives it with.
        twins: What exact twins drive it with.
        picks: Columns whose levels are wanted.
        writer: Takes the levels.

    Raises:
        ModelError: A weight is NaN or infinite.
    """
    cols = layer.cols
    answers = [np.zeros((feed.vectors, cols), dtype=np.float32) for feed in floats]
    read = [np.zeros((feed.vectors, cols), dtype=np.float32) for feed in twins]
    blocks, picked, nonzero = [], [], 0
    for index, ((start, stop), tiles) in enumerate(spans.blocks):
        scale, parts = _scaled_block(spans, start, stop, profile)
        sums = [_Sums(feed, layer, profile) for feed in twins]
        kept = []
        for at, weights in parts:
            levels = scaled(weights, scale)
            nonzero += int(np.count_nonzero(weights))
            kept.append(levels[:, picks])
            _write(writer, layer, index, at, levels)
            for total, feed in zip(answers, floats, strict=True):
                total += feed.part(at, at + len(weights)) @ weights
            for one in sums:
                one.add(at, levels)
        for total, one in zip(read, sums, strict=True):
            total += one.answers(scale.top)
        blocks.append(PlacedBlock((start, stop), np.zeros((0, cols), dtype=np.int8), scale.top, tiles))
        picked.append(np.concatenate(kept))
    twice = [total * feed.scales[:, None] for total, feed in zip(read, twins, strict=True)]
    return Passed(answers, twice, tuple(blocks), tuple(picked), nonzero)


def _scaled_block(
    spans: Spans, start: int, stop: int, profile: Profile
) -> tuple[ColumnScale, Iterator[tuple[int, Float32s]]]:
    """The scales of a block's columns, and its rows in parts, each with its first row."""
    matrix = spans.layer.matrix
    parts = [(start, stop)] if spans.layer.geometry is not None else chunks(start, stop, matrix.shape[1])
    if len(parts) == 1:
        whole = rows_of(matrix, start, stop)
        largest = np.maximum(whole.max(axis=0), -whole.min(axis=0))
        require_finite(spans.layer.name, largest)
        return column_scale(largest, profile, spans.layer.step), iter([(start, whole)])
    if not profile.weights.levels:
        nothing = np.zeros(matrix.shape[1], dtype=np.float32)
        return column_scale(nothing, profile), _checked(spans, parts)
    largest = np.zeros(matrix.shape[1], dtype=np.float32)
    for _, weights in _ahead(matrix, parts):
        np.maximum(largest, np.maximum(weights.max(axis=0), -weights.min(axis=0)), out=largest)
    require_finite(spans.layer.name, largest)
    return column_scale(largest, profile, spans.layer.step), _ahead(matrix, parts)


def _checked(spans: Spans, parts: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Float32s]]:
    for at, weights in _ahead(spans.layer.matrix, parts):
        require_finite(spans.layer.name, weights)
        yield at, weights


def _ahead(matrix: Any, parts: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Float32s]]:
    """Rows in parts, the next of which is read meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(rows_of, matrix, *parts[0])
        for number, (start, _) in enumerate(parts):
            weights = coming.result()
            if number + 1 < len(parts):
                coming = pool.submit(rows_of, matrix, *parts[number + 1])
            yield start, weights


def _write(writer: TensorWriter, layer: Layer, index: int, at: int, levels: Float32s) -> None:
    name = layer.blocks[index].levels
    stored = levels.astype(writer.dtype(name))
    if layer.convolution is not None:
        writer.write(name, operator_layout(layer, index, stored))
    else:
        writer.write(name, stored, (at - layer.blocks[index].rows[0]) * layer.cols)


class _Sums:
    """A twin's sums over the rows of one block, in ADC codes, one for each side that is driven."""

    def __init__(self, feed: Feed, layer: Layer, profile: Profile) -> None:
        self._feed, self._layer, self._profile = feed, layer, profile
        count = 2 if layer.polarity == "two-pass" else 1
        self._sums = [np.zeros((feed.vectors, layer.cols), dtype=np.float32) for _ in range(count)]
        self._driven = [np.zeros((feed.vectors, 1), dtype=np.float32) for _ in range(count)]

    def add(self, at: int, levels: Float32s) -> None:
        """Add some rows' products."""
        codes = self._feed.part(at, at + len(levels))
        for side, driven, total in zip(io.sides(codes, self._layer.polarity), self._driven, self._sums, strict=True):
            total += side @ levels
            driven += side.sum(axis=1, keepdims=True)

    def answers(self, top: Float32s) -> Float32s:
        """What the host makes of the codes, for a full scale of 1."""
        profile, copies = self._profile, self._layer.blocks[0].row_copies
        unit = np.float32(profile.read_unit)
        gain = top * np.float32(profile.adc_unit / profile.swing / copies)
        signed = []
        for total, driven in zip(self._sums, self._driven, strict=True):
            base = np.float32(profile.reference * copies) * driven
            total *= unit * np.float32(copies)
            read = io.readout(total + base if profile.reference else total, None, 0.0, profile.adc.levels)
            signed.append(read - base if profile.reference else read)
        out: Float32s = io.decode(signed[0] if len(signed) == 1 else signed[0] - signed[1], gain)
        return out
