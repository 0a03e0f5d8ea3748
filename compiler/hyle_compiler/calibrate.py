"""Choose each layer's input range and its nominal gains from what it sees on the calibration samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_substrates import io
from hyle_substrates.host import encode_rows
from hyle_substrates.profile import Profile

from hyle_compiler.activations import Observed
from hyle_compiler.place import Placed

__all__ = ["Calibrated", "calibrate"]

Float32s = np.ndarray[Any, np.dtype[np.float32]]
QUANTILES = (1.0, 0.9999, 0.999, 0.997, 0.99, 0.98, 0.96, 0.93)


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A placed layer with its host-side numbers.

    `gain` (blocks by columns) is the value of one ADC code at full scale 1; `offset` (columns) in output units.
    `codes`, `scales` and `wanted` are the probes: DAC codes (vectors by rows), full scale of each, and the exact
    answers (vectors by columns) without bias. `error` is the expected relative root-mean-square error of the layer
    from converters and read noise alone.
    """

    placed: Placed
    dynamic: bool
    full_scale: float
    gain: Float32s
    offset: Float32s
    codes: np.ndarray[Any, Any]
    scales: Float32s
    wanted: Float32s
    error: float
    positions: float


def calibrate(placed: Placed, seen: Observed, profile: Profile) -> Calibrated:
    """Try the ranges that the profile allows and keep the one of least expected error."""
    gain = np.stack([block.top * np.float32(profile.adc_unit) for block in placed.blocks])
    wanted = (seen.vectors.astype(np.float64) @ placed.layer.matrix).astype(np.float32)
    options: list[tuple[float, bool, float, np.ndarray[Any, Any], Float32s]] = []
    for dynamic, full_scale in _ranges(seen, profile):
        scales = np.maximum(seen.scales, io.TINY) if dynamic else np.full_like(seen.scales, full_scale)
        codes = encode_rows(profile, seen.vectors, scales.astype(np.float32))
        options.append((_error(placed, profile, codes, scales, gain, wanted), dynamic, full_scale, codes, scales))
    error, dynamic, full_scale, codes, scales = min(options, key=lambda option: option[0])
    kind = np.int8 if 0 < profile.dac.levels <= 127 else np.int32 if profile.dac.levels else np.float32
    return Calibrated(
        placed, dynamic, full_scale, gain, placed.layer.bias, codes.astype(kind), scales.astype(np.float32), wanted, error, seen.positions
    )


def _ranges(seen: Observed, profile: Profile) -> list[tuple[bool, float]]:
    if profile.dac.levels == 0:
        return [(False, 1.0)]
    largest = seen.largest or 1.0
    static = dict.fromkeys(max(float(np.quantile(seen.magnitudes, q)), 1e-3 * largest) for q in QUANTILES if q < 1.0)
    choices = [(False, largest), *((False, value) for value in static)]
    if profile.dac.range == "static":
        return choices
    return [(True, 1.0)] if profile.dac.range == "dynamic" else [(True, 1.0), *choices]


def _error(
    placed: Placed, profile: Profile, codes: np.ndarray[Any, Any], scales: Float32s, gain: Float32s, wanted: Float32s
) -> float:
    """Relative error expected on `wanted`: what converters do, measured, and the variance that read noise adds."""
    unit = profile.dac_unit * profile.weight_unit / profile.adc_unit
    total = np.zeros_like(wanted)
    variance = 0.0
    for block, row_gain in zip(placed.blocks, gain, strict=True):
        part = codes[:, block.rows[0] : block.rows[1]].astype(np.float32) @ block.levels.astype(np.float32)
        total += io.decode(io.readout(part * np.float32(unit), None, 0.0, profile.adc.levels), row_gain)
        variance += profile.noise_codes**2 * float(np.mean(row_gain**2))
    power = float(np.mean(wanted**2)) or 1.0
    bias = total * scales[:, None] - wanted
    return float(np.sqrt((float(np.mean(bias**2)) + variance * float(np.mean(scales**2))) / power))
