"""Put a bundle's layers on the tiles of a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from hyle_bundle.manifest import Layer
from hyle_substrates.driver import Driver, ProgramReport
from hyle_substrates.host import BlockTiles, Compensation, Geometry, HostLayer, unit_answers
from hyle_substrates.profile import Profile

__all__ = [
    "DEVIATES",
    "NamedTensors",
    "Tensors",
    "block_matrix",
    "exact_units",
    "host_layer",
    "instance_name",
    "instance_weights",
    "operator_layout",
    "program_layer",
    "tile_targets",
]

Array = np.ndarray[Any, Any]


class Tensors(Protocol):
    """Named arrays, as `hyle_bundle.TensorFile` gives them."""

    def array(self, name: str) -> Array:
        """Return one array, read-only."""
        ...


class NamedTensors(Tensors, Protocol):
    """The same, and which there are."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every array."""
        ...


@dataclass(frozen=True, slots=True)
class _Shape:
    kernel: tuple[int, ...]
    channels: int

    @property
    def taps(self) -> int:
        return int(np.prod(self.kernel, dtype=np.int64))


def _shape(layer: Layer) -> _Shape:
    if layer.convolution is None:
        return _Shape((), layer.rows)
    return _Shape(layer.convolution.kernel, layer.convolution.channels)


def block_matrix(layer: Layer, block: int, levels: Array) -> Array:
    """Turn a block's levels from the operator's layout into rows by columns.

    A convolution's levels are columns, channels, kernel positions; positions outside the block's rows are dropped.
    """
    if layer.convolution is None:
        return levels
    start, stop = layer.blocks[block].rows
    first = start // _shape(layer).taps * _shape(layer).taps
    return np.ascontiguousarray(levels.reshape(levels.shape[0], -1).T[start - first : stop - first])


def operator_layout(layer: Layer, block: int, matrix: Array) -> Array:
    """Turn rows by columns back into the operator's layout; positions outside the block's rows are zero."""
    if layer.convolution is None:
        return np.ascontiguousarray(matrix)
    shape = _shape(layer)
    start, stop = layer.blocks[block].rows
    first, last = start // shape.taps, -(-stop // shape.taps)
    whole = np.zeros(((last - first) * shape.taps, layer.cols), dtype=matrix.dtype)
    whole[start - first * shape.taps : stop - first * shape.taps] = matrix
    return np.ascontiguousarray(whole.T).reshape(layer.cols, last - first, *shape.kernel)


def host_layer(layer: Layer, tensors: Tensors, tiles: Mapping[int, int]) -> HostLayer:
    """Make the host's half of a layer.

    Args:
        layer: The layer, from the manifest.
        tensors: The bundle's `programming.safetensors`.
        tiles: Device tile of each of the bundle's tiles.
    """
    by_block: list[list[int]] = [[] for _ in layer.blocks]
    for tile in layer.tiles:
        by_block[tile.block].append(tiles[tile.index])
    blocks = tuple(
        BlockTiles(*block.rows, tuple(by_block[i]), block.row_copies, block.col_copies, layer.polarity, layer.reference)
        for i, block in enumerate(layer.blocks)
    )
    conv = layer.convolution
    return HostLayer(
        blocks,
        layer.range_mode == "dynamic",
        float(tensors.array(layer.full_scale).reshape(())),
        np.stack([tensors.array(block.gain) for block in layer.blocks]),
        tensors.array(layer.offset),
        None if conv is None else Geometry(conv.kernel, conv.strides, conv.pads, conv.dilations),
    )


def exact_units(profile: Profile, layer: Layer, tensors: Tensors, host: HostLayer) -> list[Array]:
    """Return what perfect matter answers to unit probes, ADC codes, rows by columns, one array a block.

    Args:
        profile: The device's.
        layer: The layer, from the manifest.
        tensors: The bundle's `programming.safetensors`.
        host: The host's half of the layer.
    """
    return [
        unit_answers(profile, tiles, block_matrix(layer, i, tensors.array(block.levels)))
        for i, (block, tiles) in enumerate(zip(layer.blocks, host.blocks, strict=True))
    ]


def program_layer(driver: Driver, layer: Layer, tensors: Tensors, tiles: Mapping[int, int]) -> list[ProgramReport]:
    """Write a layer's targets to its tiles."""
    return [driver.program(tiles[index], targets) for index, targets in tile_targets(layer, tensors)]


def tile_targets(layer: Layer, tensors: Tensors) -> Iterator[tuple[int, Array]]:
    """Yield each of the bundle's tiles of a layer with its targets, levels, rows by columns with all copies."""
    matrices = [block_matrix(layer, i, tensors.array(block.levels)) for i, block in enumerate(layer.blocks)]
    for tile in layer.tiles:
        start = layer.blocks[tile.block].rows[0]
        part = matrices[tile.block][tile.rows[0] - start : tile.rows[1] - start, tile.cols[0] : tile.cols[1]]
        block = layer.blocks[tile.block]
        copied = np.tile(part, (block.row_copies, block.col_copies))
        yield tile.index, copied if copied.dtype.kind == "f" else copied.astype(np.int32)


DEVIATES = "hyle.physical/deviates"


def instance_name(levels: str, copy: int) -> str:
    """Name of the initializer of twin.onnx that holds one column copy of a block's weights."""
    return f"{levels}#{copy}"


def instance_weights(layer: Layer, index: int, weights: Sequence[Array]) -> dict[str, Array]:
    """Name a device's effective weights as twin.onnx names them.

    Args:
        layer: The layer.
        index: The block.
        weights: Effective weights of the block's tiles in order, rows by columns with all copies, in levels.

    Returns:
        One array a column copy, in the operator's layout, the mean over row copies.
    """
    block = layer.blocks[index]
    rows = block.rows[1] - block.rows[0]
    split = [w.reshape(block.row_copies, rows, block.col_copies, -1).mean(axis=0) for w in weights]
    joined = np.concatenate(split, axis=2)
    return {
        instance_name(block.levels, copy): operator_layout(layer, index, joined[:, copy]).astype(np.float32)
        for copy in range(block.col_copies)
    }


def corrections(layer: Layer, correction: Compensation) -> dict[str, Array]:
    """Name a correction's tensors as the graph's initializers are named."""
    named: dict[str, Array] = {block.gain: correction.gain[i] for i, block in enumerate(layer.blocks)}
    named[layer.offset] = correction.offset
    return named


def layers_by_name(layers: Sequence[Layer]) -> dict[str, Layer]:
    """Index layers by name."""
    return {layer.name: layer for layer in layers}
