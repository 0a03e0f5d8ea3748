"""The host's half of a physical layer: values to codes, codes to values, and what a measured device needs corrected.

Used by the compiler (calibration) and by the agent (execution); it knows arrays and geometry, no files.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hyle_substrates import io
from hyle_substrates.driver import Codes, Driver
from hyle_substrates.profile import Profile

__all__ = [
    "BlockTiles",
    "Compensation",
    "Geometry",
    "HostLayer",
    "Vectors",
    "compensate",
    "encode_rows",
    "patches",
    "patches_at",
    "probe",
    "probe_in_steps",
    "sample_scale",
    "unit_answers",
    "unit_codes",
    "unit_probe",
]

Array = np.ndarray[Any, Any]
Float32s = np.ndarray[Any, np.dtype[np.float32]]
Mode = Literal["none", "global", "column", "affine"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution's geometry, one entry a spatial axis; `pads` lists all begins, then all ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    def output_shape(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Spatial shape of the result for an input of spatial shape `spatial`."""
        n = len(self.kernel)
        return tuple(
            (size + self.pads[i] + self.pads[i + n] - self.dilations[i] * (self.kernel[i] - 1) - 1) // self.strides[i]
            + 1
            for i, size in enumerate(spatial)
        )


@dataclass(frozen=True, slots=True)
class BlockTiles:
    """Rows that are driven together: their span in the flattened matrix, and the device's tiles over the columns.

    Each tile holds its part `row_copies` times below itself and `col_copies` times beside itself. `polarity` says how
    signed codes are driven, `reference` what a weight of zero gives for one DAC code, in ADC codes.
    """

    start: int
    stop: int
    tiles: tuple[int, ...]
    row_copies: int = 1
    col_copies: int = 1
    polarity: io.Polarity = "signed"
    reference: float = 0.0

    def read(self, driver: Driver, codes: Codes) -> Float32s:
        """Drive the block (vectors by its rows); signed ADC codes averaged over column copies, vectors by columns."""
        reads = [self._read(driver, side) for side in io.sides(codes, self.polarity)]
        return reads[0] if len(reads) == 1 else reads[0] - reads[1]

    def _read(self, driver: Driver, codes: Codes) -> Float32s:
        codes = codes.astype(np.int32) if self.polarity != "signed" and codes.dtype.kind in "iu" else codes
        driven = np.tile(codes, (1, self.row_copies)) if self.row_copies > 1 else codes
        answers = driver.apply(self.tiles, driven).astype(np.float32)
        if self.reference:
            answers -= np.float32(self.reference) * driven.sum(axis=1, keepdims=True, dtype=np.float32)
        if self.col_copies == 1:
            return answers
        out: Float32s = answers.reshape(len(codes), self.col_copies, -1).mean(axis=1)
        return out


@dataclass(frozen=True, slots=True)
class Vectors:
    """What the rows of a layer see: codes (vectors by rows), each vector's full scale, and the shape to give back."""

    codes: Codes
    full_scale: Float32s
    lead: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Compensation:
    """Measured correction: a gain a block and column (blocks by columns), and an offset a column, output units."""

    gain: Float32s
    offset: Float32s


@dataclass(frozen=True, slots=True)
class HostLayer:
    """A layer placed on a device.

    `gain` (blocks by columns) is the value of one ADC code at full scale 1; `offset` (columns) is added at the end, in
    units of the output. `full_scale` is the static range; with `dynamic` every sample brings its own.
    """

    blocks: tuple[BlockTiles, ...]
    dynamic: bool
    full_scale: float
    gain: Float32s
    offset: Float32s
    geometry: Geometry | None

    def run(self, driver: Driver, profile: Profile, x: Float32s) -> Float32s:
        """Multiply a batch on the device.

        Args:
            driver: The device, whose tiles hold this layer.
            profile: The device's constraint sheet.
            x: The operator's input: `(..., rows)`, or batch, channels, spatial for a convolution.

        Returns:
            The operator's output, in its units and layout.
        """
        seen = self.encode(profile, x)
        total: Array = np.zeros((), dtype=np.float32)
        for gain, block in zip(self.gain, self.blocks, strict=True):
            total = total + io.decode(block.read(driver, seen.codes[:, block.start : block.stop]), gain)
        return self.layout(total * seen.full_scale[:, None] + self.offset, seen.lead)

    def encode(self, profile: Profile, x: Float32s) -> Vectors:
        """Turn the operator's input into the vectors that drive the rows."""
        levels = profile.dac.levels
        full_scale = sample_scale(x, self.geometry) if self.dynamic else np.full((), self.full_scale, dtype=np.float32)
        codes = io.encode(x, full_scale, levels)
        codes = codes.astype(np.int32) if levels else codes
        if self.geometry is None:
            lead = x.shape[:-1]
            scales = np.broadcast_to(full_scale, (*lead, 1)).reshape(-1)
            return Vectors(np.ascontiguousarray(codes.reshape(-1, x.shape[-1])), scales, lead)
        out = self.geometry.output_shape(x.shape[2:])
        scales = np.broadcast_to(
            full_scale.reshape(-1, 1) if self.dynamic else full_scale, (x.shape[0], int(np.prod(out)))
        )
        return Vectors(patches(codes, self.geometry), scales.reshape(-1), (x.shape[0], *out))

    def layout(self, rows: Array, lead: tuple[int, ...]) -> Float32s:
        """Give vectors by columns the operator's output shape."""
        shaped = rows.astype(np.float32).reshape(*lead, rows.shape[-1])
        return shaped if self.geometry is None else np.ascontiguousarray(np.moveaxis(shaped, -1, 1))


def sample_scale(x: Float32s, geometry: Geometry | None) -> Float32s:
    """Largest magnitude of each vector (of each sample, for a convolution), kept broadcastable against `x`."""
    axes = -1 if geometry is None else tuple(range(1, x.ndim))
    largest: Float32s = np.max(np.abs(x), axis=axes, keepdims=True)
    return largest


def patches(x: Array, geometry: Geometry) -> Array:
    """Lay out the patches that a convolution sees.

    Args:
        x: Batch, channels, spatial.
        geometry: The convolution.

    Returns:
        (batch x positions) by (channels x kernel), channel-major, then kernel positions.
    """
    n = len(geometry.kernel)
    ordered = np.moveaxis(_taps(x, geometry), 1, 1 + n)
    return np.ascontiguousarray(ordered).reshape(-1, x.shape[1] * int(np.prod(geometry.kernel)))


def patches_at(x: Array, geometry: Geometry, picks: Array) -> Array:
    """Lay out some of the patches of `patches`.

    Args:
        x: Batch, channels, spatial.
        geometry: The convolution.
        picks: Indices into the rows of `patches(x, geometry)`.

    Returns:
        picks by (channels x kernel).
    """
    taps = _taps(x, geometry)
    n = len(geometry.kernel)
    where = np.unravel_index(picks, (x.shape[0], *taps.shape[2 : 2 + n]))
    index: Any = (where[0], slice(None), *where[1:])
    return np.ascontiguousarray(taps[index]).reshape(len(picks), -1)


def _taps(x: Array, geometry: Geometry) -> Array:
    """View of batch, channels, output positions, kernel positions."""
    n = len(geometry.kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *((geometry.pads[i], geometry.pads[i + n]) for i in range(n))])
    reach = tuple(d * (k - 1) + 1 for k, d in zip(geometry.kernel, geometry.dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + n)))
    picked = windows[(slice(None), slice(None), *(slice(None, None, s) for s in geometry.strides))]
    return picked[(*([slice(None)] * (2 + n)), *(slice(None, None, d) for d in geometry.dilations))]


def probe(driver: Driver, blocks: Sequence[BlockTiles], codes: Codes) -> list[Float32s]:
    """Drive every block with its part of `codes` (vectors by all rows); ADC codes, one array a block."""
    return [block.read(driver, codes[:, block.start : block.stop]) for block in blocks]


def probe_in_steps(
    driver: Driver, blocks: Sequence[BlockTiles], codes: Sequence[Codes], vectors: int
) -> Generator[None, None, list[Float32s]]:
    """Do what `probe` does with rests in between, so that others may use the device.

    Args:
        driver: The device.
        blocks: The blocks.
        codes: What drives each block, vectors by its rows.
        vectors: Most vectors between two rests, 0 for all.
    """
    answers = []
    for block, driven in zip(blocks, codes, strict=True):
        step = vectors or max(1, len(driven))
        parts = []
        for start in range(0, len(driven), step):
            parts.append(block.read(driver, driven[start : start + step]))
            yield
        answers.append(np.concatenate(parts) if len(parts) > 1 else parts[0])
    return answers


def unit_codes(blocks: Sequence[BlockTiles], levels: int) -> list[Codes]:
    """Return the codes that drive one row after another at full scale, rows by rows, one array a block."""
    kind = np.int32 if levels else np.float32
    return [(np.eye(b.stop - b.start) * (levels or 1)).astype(kind) for b in blocks]


def unit_probe(driver: Driver, blocks: Sequence[BlockTiles], levels: int) -> list[Float32s]:
    """Drive one row after another at full scale; ADC codes, rows of the block by columns, one array a block."""
    return [b.read(driver, codes) for b, codes in zip(blocks, unit_codes(blocks, levels), strict=True)]


def unit_answers(profile: Profile, block: BlockTiles, levels: Array) -> Float32s:
    """Return what perfect matter answers to the block's `unit_codes`: signed ADC codes, rows by columns, not rounded.

    Args:
        profile: The device's.
        block: The block.
        levels: Its targets, rows by columns without copies.
    """
    unit = np.float32(profile.read_unit * block.row_copies * (profile.dac.levels or 1))
    exact: Float32s = levels.astype(np.float32) * unit
    return np.clip(exact, -profile.adc.levels, profile.adc.levels) if profile.adc.levels else exact


def compensate(
    mode: Mode,
    layer: HostLayer,
    *,
    exact: Sequence[Float32s] = (),
    now: Sequence[Float32s] = (),
    scales: Float32s | None = None,
    wanted: Float32s | None = None,
) -> Compensation:
    """Work out the correction of one layer from measurements of the very device.

    Args:
        mode: `none`; `global`: one gain a block from unit probes; `column`: the same a column; `affine`: gains a block
            and column and an offset a column, least squares against `wanted`.
        layer: The layer with its nominal gain and offset.
        exact: What `unit_answers` says of each block (global, column).
        now: The blocks' answers to unit probes now (global, column), or to calibration vectors (affine).
        scales: Full scale of each calibration vector (affine).
        wanted: Answers of the exact layer without bias, vectors by columns (affine).

    Returns:
        The corrected gain and offset.

    Source: global drift compensation: Joshi et al. 2020, Nat. Commun. 11, 2473, who divide mean magnitudes right after
    programming by those now; here the answers are projected on the exact ones, which noise does not bias and for which
    nothing must have been measured in time.
    """
    if mode == "none":
        return Compensation(layer.gain, layer.offset)
    if mode == "affine":
        if scales is None or wanted is None:
            raise ValueError("affine compensation needs the vectors' scales and the wanted answers")
        return _affine(layer, now, scales, wanted)
    ratios = [_ratio(wanted, said, None if mode == "global" else 0) for wanted, said in zip(exact, now, strict=True)]
    gain = np.stack([g * np.float32(1) * r for g, r in zip(layer.gain, ratios, strict=True)]).astype(np.float32)
    return Compensation(gain, layer.offset)


def _ratio(exact: Float32s, now: Float32s, axis: int | None) -> Array:
    """By what `now` must be multiplied to be `exact` along it; 1 where it says nothing of it."""
    power, along = (np.sum(exact * other, axis=axis, dtype=np.float64) for other in (exact, now))
    return np.where(along > 0.0, power / np.where(along > 0.0, along, 1.0), 1.0)


def _affine(layer: HostLayer, now: Sequence[Float32s], scales: Float32s, wanted: Float32s) -> Compensation:
    """Fit every column's blocks to `wanted`, some columns at once."""
    parts = np.stack([io.decode(codes, gain) * scales[:, None] for codes, gain in zip(now, layer.gain, strict=True)])
    blocks, vectors, cols = parts.shape
    factor, offset = np.empty((blocks, cols)), np.empty(cols)
    step = max(1, COLUMNS_AT_ONCE // (vectors * (blocks + 1)))
    for span in (slice(start, start + step) for start in range(0, cols, step)):
        unit = _units(parts[:, :, span], wanted[:, span])
        factor[:, span], offset[span] = _fitted(parts[:, :, span] / unit, wanted[:, span] / unit)
        offset[span] *= unit
    return Compensation((layer.gain * factor).astype(np.float32), (layer.offset + offset).astype(np.float32))


def _units(parts: Float32s, wanted: Float32s) -> Float32s:
    """A power of two near each column's largest value, so that squares neither overflow nor vanish."""
    largest = np.maximum(np.abs(parts).max(axis=(0, 1)), np.abs(wanted).max(axis=0))
    unit: Float32s = np.ldexp(np.float32(1.0), np.clip(np.frexp(largest)[1], -126, 127))
    return unit


def _fitted(parts: Array, wanted: Array) -> tuple[Array, Array]:
    """Gains and an offset of each column by least squares.

    All blocks of a column share what most devices do, such as drift. What a block differs by is estimated by ridge
    regression with the prior of a gain of 1 within `PRIOR_STD` beside that.

    Args:
        parts: The blocks' answers, blocks by vectors by columns.
        wanted: What their sum should be but for an offset, vectors by columns.

    Returns:
        Gains (blocks by columns) and offsets (columns).
    """
    common = _common(parts.sum(axis=0), wanted)
    parts = parts * common.astype(np.float32)
    blocks, vectors, cols = parts.shape
    missing = wanted - parts.sum(axis=0)
    # Two degrees of freedom are spent; of too few vectors an offset alone takes all that is missing.
    noise = np.var(missing, axis=0) * (vectors / max(vectors - 2, 1)) + np.mean(missing**2, axis=0) / vectors + 1e-30
    design = np.ones((cols, blocks + 1, vectors))
    design[:, :blocks] = parts.transpose(2, 0, 1)
    prior = np.diag([1.0 / PRIOR_STD**2] * blocks + [0.0])
    normal = design @ design.swapaxes(1, 2) + prior * noise[:, None, None]
    normal[:, -1, -1] += 1e-9 * vectors
    solution = np.linalg.solve(normal, design @ missing.T[:, :, None])[:, :, 0]
    return common * (1.0 + solution[:, :-1].T), solution[:, -1]


def _common(total: Float32s, wanted: Float32s) -> Array:
    """Gain of each column that brings its sums (vectors by columns) nearest to `wanted`, whatever the offset.

    1 where sums move with what is wanted by less than four standard deviations of chance.
    """
    moved, aim = (np.subtract(x, x.mean(axis=0, dtype=np.float64), dtype=np.float64) for x in (total, wanted))
    power, along = np.sum(moved**2, axis=0), np.sum(moved * aim, axis=0)
    sure = along > 4.0 * np.sqrt(power * np.mean(aim**2, axis=0))
    return np.where(sure, along / np.where(sure, power, 1.0), 1.0)


PRIOR_STD = 0.3
COLUMNS_AT_ONCE = 1 << 20


def encode_rows(profile: Profile, rows: Float32s, scales: Float32s) -> Codes:
    """Encode vectors (vectors by rows), each with its own full scale."""
    codes: Codes = io.encode(rows, scales[:, None], profile.dac.levels)
    return codes.astype(np.int32) if profile.dac.levels else codes
