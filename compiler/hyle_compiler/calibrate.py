"""Choose each layer's input range and copies, and its nominal gains, from what it sees on the calibration samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hyle_substrates import draws, io
from hyle_substrates.host import encode_rows
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import load_substrate
from hyle_substrates.wires import loaded

from hyle_compiler.activations import Observed
from hyle_compiler.place import Placed, Spans

__all__ = ["Calibrated", "calibrate", "polarity_of", "ranges", "room"]

Array = np.ndarray[Any, Any]
Float32s = np.ndarray[Any, np.dtype[np.float32]]
QUANTILES = (0.9999, 0.999, 0.997, 0.99, 0.98, 0.96, 0.93)
MOST_COLUMN_COPIES = 4
REFERENCE_AGE_S = 86400.0


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A placed layer with its host-side numbers.

    `gain` (blocks by columns) is the value of one ADC code at full scale 1; `offset` (columns) in output units.
    `codes`, `scales` and `wanted` are the probes: DAC codes (vectors by rows), full scale of each, and the exact
    answers (vectors by columns) without bias. `error` is the expected relative root-mean-square error of the layer:
    converters, read noise, and the matter at one day. `nonzero` counts the weights other than zero, if it is known.
    """

    placed: Placed
    dynamic: bool
    full_scale: float
    row_copies: int
    col_copies: int
    gain: Float32s
    offset: Float32s
    codes: Array
    scales: Float32s
    wanted: Float32s
    error: float
    positions: float
    polarity: io.Polarity = "signed"
    reference: float = 0.0
    nonzero: int | None = None

    def without_probes(self) -> Calibrated:
        """The layer without `codes`, `scales` and `wanted`, which are large."""
        nothing = np.zeros(0, dtype=np.float32)
        return replace(self, codes=nothing, scales=nothing, wanted=nothing)


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    error: float
    dynamic: bool
    full_scale: float
    row_copies: int
    codes: Array
    scales: Float32s


def calibrate(
    placed: Placed,
    seen: Observed,
    profile: Profile,
    copies: int | None,
    seed: int,
    most: tuple[int, int] | None = None,
) -> Calibrated:
    """Try the ranges and copies that the profile and the tiles allow and keep those of least expected error.

    Args:
        placed: The layer and its tiles.
        seen: What the layer sees.
        profile: The target.
        copies: Most copies of a weight; None for as many as there is room for.
        seed: Seed of the write errors that the choice expects.
        most: Most copies below and beside each other, where `placed` is but a part of the layer.
    """
    wanted = (seen.vectors.astype(np.float64) @ placed.layer.matrix).astype(np.float32)
    rows, cols = room(placed, profile, copies) if most is None else most
    matter = _matter_variance(placed, seen, profile, seed) / cols
    options = [
        choice
        for dynamic, full_scale in ranges(seen, profile, placed.layer.learned_range)
        for choice in _choices(placed, seen, profile, wanted, dynamic, full_scale, rows, cols, matter)
    ]
    best = min(options, key=lambda choice: choice.error)
    gain = np.stack([block.top for block in placed.blocks]) * np.float32(
        profile.adc_unit / profile.swing / best.row_copies
    )
    kind = np.int8 if 0 < profile.dac.levels <= 127 else np.int32 if profile.dac.levels else np.float32
    return Calibrated(
        placed,
        best.dynamic,
        best.full_scale,
        best.row_copies,
        cols,
        gain,
        placed.layer.bias,
        best.codes.astype(kind),
        best.scales,
        wanted,
        best.error,
        seen.positions,
        polarity_of(seen, profile),
        profile.reference,
    )


def polarity_of(seen: Observed, profile: Profile) -> io.Polarity:
    """How a layer's inputs are driven: in two passes only where the matter takes no negative ones and some are."""
    if not profile.dac.nonnegative:
        return "signed"
    return "two-pass" if seen.vectors.size and float(seen.vectors.min()) < 0.0 else "positive"


def room(placed: Placed | Spans, profile: Profile, copies: int | None) -> tuple[int, int]:
    """Most copies below and beside each other."""
    if profile.weights.levels == 0 or copies == 1:
        return 1, 1
    blocks = [b if isinstance(b, tuple) else (b.rows, b.tiles) for b in placed.blocks]
    rows = profile.array.rows // max(span[1] - span[0] for span, _ in blocks)
    single = all(len(tiles) == 1 for _, tiles in blocks)
    cols = min(profile.array.cols // placed.layer.matrix.shape[1], MOST_COLUMN_COPIES) if single else 1
    if copies is None:
        return max(rows, 1), max(cols, 1)
    rows = max(1, min(rows, copies))
    return rows, max(1, min(cols, copies // rows))


def ranges(seen: Observed, profile: Profile, learned: float | None = None) -> list[tuple[bool, float]]:
    """The input ranges that the profile allows: whether each sample brings its own, and else the full scale.

    One that was learned is the only one, where the profile lets a layer keep one.
    """
    if profile.dac.levels == 0:
        return [(False, 1.0)]
    if learned is not None and profile.dac.range != "dynamic":
        return [(False, learned)]
    largest = seen.largest or 1.0
    static = dict.fromkeys(max(float(np.quantile(seen.magnitudes, q)), 1e-3 * largest) for q in QUANTILES)
    choices = [(False, largest), *((False, value) for value in static)]
    if profile.dac.range == "static":
        return choices
    return [(True, 1.0)] if profile.dac.range == "dynamic" else [(True, 1.0), *choices]


def _choices(
    placed: Placed,
    seen: Observed,
    profile: Profile,
    wanted: Float32s,
    dynamic: bool,
    full_scale: float,
    rows: int,
    cols: int,
    matter: float,
) -> Iterator[_Choice]:
    scales = np.maximum(seen.scales, io.TINY) if dynamic else np.full_like(seen.scales, full_scale)
    codes = encode_rows(profile, seen.vectors, scales)
    polarity = polarity_of(seen, profile)
    parts = [
        [_Sums.of(side, block.levels, profile) for side in io.sides(part.astype(np.float32), polarity)]
        for block in placed.blocks
        for part in [codes[:, block.rows[0] : block.rows[1]]]
    ]
    power = _mean_square(wanted) or 1.0
    for copies in _powers(rows):
        total = np.zeros_like(wanted)
        variance = 0.0
        for sums, block in zip(parts, placed.blocks, strict=True):
            gain = block.top * np.float32(profile.adc_unit / profile.swing / copies)
            for sign, one in zip((1.0, -1.0), sums, strict=False):
                total += np.float32(sign) * io.decode(one.read(copies, profile), gain)
                variance += one.noise_variance(copies, profile) * _mean_square(gain) / cols
        bias = _mean_square(total * scales[:, None] - wanted)
        error = np.sqrt((bias + variance * _mean_square(scales) + matter / copies) / power)
        yield _Choice(float(error), dynamic, full_scale, copies, codes, scales.astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """A block's sums in ADC codes: of the products, of what weights of zero give, of light, and of squared codes."""

    total: Float32s
    base: Float32s
    light: float
    power: float

    @classmethod
    def of(cls, codes: Float32s, levels: Array, profile: Profile) -> _Sums:
        unit = np.float32(profile.read_unit)
        weights = levels.astype(np.float32) * unit
        base = np.float32(profile.reference) * codes.sum(axis=1, keepdims=True)
        total = codes @ weights + base
        light = 0.0
        if profile.shot_noise_codes:
            light = float(np.mean(np.abs(total if profile.reference else np.abs(codes) @ np.abs(weights))))
        return cls(total, base, light, float(np.mean(np.sum(codes * codes, axis=1))))

    def read(self, copies: int, profile: Profile) -> Float32s:
        out: Float32s = io.readout(self.total * np.float32(copies), None, 0.0, profile.adc.levels)
        return out - self.base * np.float32(copies)

    def noise_variance(self, copies: int, profile: Profile) -> float:
        signal = profile.weight_noise_codes**2 * self.power + profile.shot_noise_codes * self.light
        return profile.noise_codes**2 + copies * signal


def _mean_square(values: Array) -> float:
    """In float64: squares of float32 overflow from 2e19 on."""
    return float(np.mean(np.square(values, dtype=np.float64)))


def _powers(most: int) -> list[int]:
    """1, 2, 4, … and the largest."""
    return sorted({most, *(2**i for i in range(most.bit_length()) if 2**i <= most)})


def _matter_variance(placed: Placed, seen: Observed, profile: Profile, seed: int) -> float:
    """Variance of the answers of one instance after a day, once every column has its gain and offset."""
    if profile.weights.levels == 0:
        return 0.0
    substrate = load_substrate(profile.substrate)
    total = np.zeros((len(seen.vectors), placed.layer.matrix.shape[1]))
    exact = np.zeros_like(total)
    for index, block in enumerate(placed.blocks):
        targets = block.levels.astype(np.float64) * profile.weight_unit

        def draw(name: str, shape: tuple[int, ...], index: int = index) -> Array:
            return draws.normal(seed, "calibrate", placed.layer.name, index, name, shape=shape)

        aged = substrate.age(profile, substrate.program(profile, targets, draw), REFERENCE_AGE_S, draw)
        weights = loaded(aged, profile)
        part = seen.vectors[:, block.rows[0] : block.rows[1]].astype(np.float64)
        total += part @ (weights * block.top)
        exact += part @ (targets * block.top)
    a, b = total - total.mean(axis=0), exact - exact.mean(axis=0)
    power = np.sum(a * a, axis=0)
    slope = np.sum(a * b, axis=0) / np.where(power > 0.0, power, 1.0)
    return float(np.mean((a * slope - b) ** 2))
