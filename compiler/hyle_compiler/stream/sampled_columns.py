"""How far an instance of the matter is from the exact layer, measured on some of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hyle_substrates import io
from hyle_substrates.driver import Driver
from hyle_substrates.host import BlockTiles, HostLayer, compensate, probe, unit_answers, unit_probe
from hyle_substrates.profile import Profile
from hyle_substrates.twin import TwinDriver

from hyle_compiler.calibrate import Calibrated

__all__ = ["SAMPLED", "ColumnError", "Columns", "relative_errors"]

SAMPLED = 16
Array = np.ndarray[Any, Any]
Mode = Literal["none", "global", "column", "affine"]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Some columns of a layer: their numbers, and levels of each block (rows by columns) with a tile to lie on."""

    picks: Array
    levels: tuple[Array, ...]
    tiles: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ColumnError:
    """Root mean square of what an instance is wrong by.

    `relative` to that of the exact answers, and `over_signal`: over their standard deviation about each column's mean;
    0 where the answers have none.
    """

    relative: float
    over_signal: float


def relative_errors(
    layer: Calibrated, columns: Columns, profile: Profile, mode: Mode, instances: Mapping[int, Sequence[float]]
) -> dict[tuple[int, float], ColumnError]:
    """Program the columns, age them, correct them, and compare with exact matter behind the same converters.

    A correction by least squares is fitted to three quarters of the probes and all are judged on the other quarter.

    Args:
        layer: The layer with its probes.
        columns: The columns that are simulated.
        profile: The target.
        mode: How an agent corrects the device.
        instances: Ages in seconds by seed, ascending.

    Returns:
        The errors by seed and age.
    """
    exact = _answers(_host(layer, columns), TwinDriver(profile, noiseless=True, exact=True), layer, columns)
    targets = zip(_host(layer, columns).blocks, columns.levels, strict=True)
    units = [unit_answers(profile, *of) for of in targets] if mode in ("global", "column") else []
    found = {}
    for seed, ages in instances.items():
        driver = TwinDriver(profile, seed)
        host = _host(layer, columns)
        _program(driver, host, layer, columns)
        for age in ages:
            driver.advance(age)
            found[seed, age] = _error(driver, host, layer, columns, profile, mode, units, exact)
        driver.close()
    return found


def _host(layer: Calibrated, columns: Columns) -> HostLayer:
    blocks = tuple(
        BlockTiles(*block.rows, (tile,), layer.row_copies, layer.col_copies, layer.polarity, layer.reference)
        for block, tile in zip(layer.placed.blocks, columns.tiles, strict=True)
    )
    gain, offset = layer.gain[:, columns.picks], layer.offset[columns.picks]
    return HostLayer(blocks, layer.dynamic, layer.full_scale, gain, offset, None)


def _program(driver: Driver, host: HostLayer, layer: Calibrated, columns: Columns) -> None:
    for tile, levels in zip(columns.tiles, columns.levels, strict=True):
        copied = np.tile(levels, (layer.row_copies, layer.col_copies))
        driver.program(tile, copied.astype(np.float32 if copied.dtype.kind == "f" else np.int32))


def _codes(layer: Calibrated) -> Array:
    return layer.codes.astype(np.int32) if layer.codes.dtype.kind == "i" else layer.codes


def _answers(host: HostLayer, driver: Driver, layer: Calibrated, columns: Columns) -> Array:
    _program(driver, host, layer, columns)
    return _decoded(host, probe(driver, host.blocks, _codes(layer)), host.gain, layer.scales)


def _decoded(host: HostLayer, reads: Sequence[Array], gain: Array, scales: Array) -> Array:
    total: Array = sum(io.decode(codes, row) for codes, row in zip(reads, gain, strict=True)) * scales[:, None]
    return total


def _error(
    driver: Driver,
    host: HostLayer,
    layer: Calibrated,
    columns: Columns,
    profile: Profile,
    mode: Mode,
    units: Sequence[Array],
    exact: Array,
) -> ColumnError:
    reads = probe(driver, host.blocks, _codes(layer))
    judged = np.arange(len(layer.codes)) % 4 == 3
    if mode in ("global", "column"):
        now: Sequence[Array] = unit_probe(driver, host.blocks, profile.dac.levels)
        correction = compensate(mode, host, exact=units, now=now)
    elif mode == "affine" and judged.any():
        wanted = layer.wanted[:, columns.picks][~judged]
        fitted = [codes[~judged] for codes in reads]
        correction = compensate(mode, host, now=fitted, scales=layer.scales[~judged], wanted=wanted)
    else:
        correction = compensate("none", host)
    got = _decoded(host, reads, correction.gain, layer.scales) + (correction.offset - host.offset)
    part = judged if judged.any() else ~judged
    known = exact[part].astype(np.float64)
    wrong = float(np.mean((got[part] - known) ** 2))
    power, signal = float(np.mean(known**2)), float(np.mean(np.var(known, axis=0)))
    return ColumnError(*((wrong / size) ** 0.5 if size else 0.0 for size in (power, signal)))
