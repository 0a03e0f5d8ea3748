"""Calibration on attached hardware: every input range that the profile allows, held against what the device answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hyle_runtime.placement import host_layer, program_layer
from hyle_substrates import io
from hyle_substrates.driver import Driver
from hyle_substrates.host import HostLayer, compensate, encode_rows, probe
from hyle_substrates.profile import Profile

from hyle_compiler.activations import Observed
from hyle_compiler.calibrate import Calibrated, ranges
from hyle_compiler.lower import describe_layer
from hyle_compiler.tensors import layer_tensors

__all__ = ["Made", "measure"]

Array = np.ndarray[Any, Any]
Float32s = np.ndarray[Any, np.dtype[np.float32]]


class Made:
    """Tensors that are made when they are asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = makers

    def array(self, name: str) -> Array:
        """Return one."""
        return np.asarray(self._makers[name]())


def measure(calibrated: Calibrated, seen: Observed, profile: Profile, driver: Driver) -> Calibrated:
    """Write a layer to a device and keep the input range whose measured answers, affinely corrected, are best.

    Args:
        calibrated: The layer, calibrated on the profile alone; its copies stay as they are.
        seen: What the layer sees.
        profile: The target.
        driver: The device; its tiles of the same numbers are written.

    Returns:
        The layer with the range that was chosen; `error` is the measured relative root-mean-square error.

    Raises:
        DeviceError: The device did not answer.
    """
    described = describe_layer(calibrated)
    tensors, tiles = Made(layer_tensors(described, calibrated, profile.noise_codes)), _same(calibrated)
    program_layer(driver, described, tensors, tiles)
    host = host_layer(described, tensors, tiles)
    return min(
        (_tried(calibrated, seen, profile, driver, host, *choice) for choice in ranges(seen, profile)),
        key=lambda tried: tried.error,
    )


def _same(calibrated: Calibrated) -> dict[int, int]:
    return {tile.index: tile.index for block in calibrated.placed.blocks for tile in block.tiles}


def _tried(
    calibrated: Calibrated,
    seen: Observed,
    profile: Profile,
    driver: Driver,
    host: HostLayer,
    dynamic: bool,
    full_scale: float,
) -> Calibrated:
    scales = np.maximum(seen.scales, io.TINY) if dynamic else np.full_like(seen.scales, full_scale)
    scales = scales.astype(np.float32)
    codes = encode_rows(profile, seen.vectors, scales)
    now = probe(driver, host.blocks, codes)
    found = compensate("affine", host, now=now, scales=scales, wanted=calibrated.wanted)
    total = sum(io.decode(read, gain) for read, gain in zip(now, found.gain, strict=True))
    answers = total * scales[:, None] + (found.offset - host.offset)
    power = float(np.mean(calibrated.wanted.astype(np.float64) ** 2)) or 1.0
    error = float(np.sqrt(np.mean((answers - calibrated.wanted).astype(np.float64) ** 2) / power))
    return replace(
        calibrated,
        dynamic=dynamic,
        full_scale=full_scale,
        codes=codes.astype(calibrated.codes.dtype),
        scales=scales,
        error=error,
    )
