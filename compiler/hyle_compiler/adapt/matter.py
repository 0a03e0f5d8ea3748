"""Where a torch layer's weights come from: a twin drawn anew on every pass, or a device that was written once."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from hyle_substrates import io
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import load_substrate

from hyle_compiler.adapt.torch_view import Held, PhysicalLayer

__all__ = ["Drawn", "corrected"]

Tensor: TypeAlias = torch.Tensor
YOUNGEST_S, OLDEST_S = 25.0, 31536000.0
_TINY = 1e-12
_SMALLEST = 1e-3
_KEPT = 25


class Drawn:
    """Every pass is another device at another age: programming, drift and read noise drawn anew.

    A layer of n copies is drawn once, with its deviation from the mean device divided by sqrt(n), which is exact in
    the mean and the variance of each weight. Matter that torch's arrays cannot pass through is programmed tile by tile
    in NumPy, anew in every 25th pass; in those between, what its weights were off by stays.

    Args:
        profile: The twin.
        compensation: How the device will be corrected.
        generator: Source of the draws.
        age_s: Age of every device; drawn log-uniformly from 25 s to one year where None.
        scale: Multiplies the deviation, 1 for the profile's own.
    """

    def __init__(
        self,
        profile: Profile,
        compensation: str,
        generator: torch.Generator,
        age_s: float | None = None,
        scale: float = 1.0,
    ) -> None:
        self._profile, self._compensation, self._generator = profile, compensation, generator
        self._substrate = load_substrate(profile.substrate)
        self._direct = bool(getattr(self._substrate, "any_array", False))
        self._off: dict[tuple[str, int], tuple[int, Tensor]] = {}
        self._passes = 0
        self._given, self._scale = age_s, scale
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self.renew()

    def renew(self) -> None:
        """Let the devices of the next pass have another age."""
        self._passes += 1
        if self._given is not None:
            self._age_s = self._given
            return
        where = float(torch.rand((), generator=self._generator))
        self._age_s = YOUNGEST_S * (OLDEST_S / YOUNGEST_S) ** where

    def answers(self, layer: PhysicalLayer, x: Tensor) -> Tensor | None:
        """None: everything is worked out from `hold`."""
        return None

    def hold(self, layer: PhysicalLayer) -> Held:
        """Draw one instance of a layer."""
        found = [
            (self._instance(layer, number, targets), targets, top)
            for number, (targets, top) in enumerate(layer.relative())
        ]
        return corrected(layer, found, self._compensation, self._moments)

    def _instance(self, layer: PhysicalLayer, number: int, targets: Tensor) -> Tensor:
        """What one device holds for the targets of a layer's block of this number."""
        one = self._written(targets) if self._direct else targets + self._deviation(layer, number, targets)
        share = self._scale / math.sqrt(layer.calibrated.row_copies * layer.calibrated.col_copies)
        if share == 1.0:
            return one
        mean = _expected(one, targets)
        return mean + (one - mean) * share

    def _written(self, targets: Any) -> Any:
        matter = self._substrate.program(self._profile, targets, self._draw)
        return self._substrate.age(self._profile, matter, self._age_s, self._draw)

    def _deviation(self, layer: PhysicalLayer, number: int, targets: Tensor) -> Tensor:
        drawn, off = self._off.get((layer.name, number), (-_KEPT, targets))
        if self._passes - drawn < _KEPT:
            return off
        wanted = targets.numpy().astype(np.float64)
        tiles = layer.calibrated.placed.blocks[number].tiles
        parts = [self._written(wanted[:, start:stop]) for start, stop in (tile.cols for tile in tiles)]
        off = torch.tensor(np.concatenate(parts, axis=1) - wanted, dtype=torch.float32)
        self._off[layer.name, number] = self._passes, off
        return off

    def _draw(self, name: str, shape: tuple[int, ...]) -> Any:
        deviates = torch.randn(shape, generator=self._generator)
        return deviates if self._direct else deviates.numpy().astype(np.float64)


def _expected(held: Tensor, targets: Tensor) -> Tensor:
    """What devices of a target hold in the mean: an odd curve through the whole layer's devices."""
    size = targets.abs()
    basis = torch.stack([targets, targets * size, targets * torch.log(size + _SMALLEST)]).reshape(3, -1)
    normal = basis @ basis.T + _TINY * torch.eye(3)
    return (torch.linalg.solve(normal, basis @ held.reshape(-1)) @ basis).reshape(targets.shape)


def corrected(
    layer: PhysicalLayer,
    found: list[tuple[Tensor, Tensor, Tensor]],
    compensation: str,
    moments: dict[str, tuple[Tensor, Tensor]],
) -> Held:
    """Correct one instance as the agent will: (held, targets, weight of the highest level) of every block."""
    profile, calibrated = layer.profile, layer.calibrated
    code = profile.adc_unit / profile.swing / calibrated.row_copies
    noise = profile.noise_factor / math.sqrt(calibrated.col_copies)
    mean, spread = _moments(layer, moments)
    gains, offset = [], layer.bias.detach().clone()
    for (start, stop), (held, targets, top) in zip(layer.spans, found, strict=True):
        factor = _factor(compensation, held, targets, spread[start:stop, start:stop])
        if compensation == "affine":
            offset += mean[start:stop] @ (targets - held * factor) * top
        gains.append(top * code * factor)
    return Held(tuple(held for held, _, _ in found), tuple(gains), offset, noise)


def _factor(compensation: str, held: Tensor, targets: Tensor, spread: Tensor) -> Tensor:
    if compensation == "none":
        return torch.ones(held.shape[1])
    if compensation == "affine":
        seen = spread @ held
        return (targets * seen).sum(0).div((held * seen).sum(0).clamp_min(_TINY)).clamp(0.1, 10.0)
    power, along = (targets * targets).sum(0), (held * targets).sum(0)
    if compensation == "global":
        power, along = power.sum().expand(held.shape[1]), along.sum().expand(held.shape[1])
    return torch.where(along > 0.0, power / along.clamp_min(_TINY), 1.0)


def _moments(layer: PhysicalLayer, known: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what the layer's rows see on the calibration samples."""
    if layer.name not in known:
        scales = layer.calibrated.scales[:, None] * layer.profile.dac_unit
        rows = (layer.calibrated.codes * scales).astype(np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        spread = centred.T @ centred / len(rows)
        spread += np.eye(len(spread)) * (1e-6 * np.trace(spread) / len(spread) + io.TINY)
        known[layer.name] = torch.tensor(mean, dtype=torch.float32), torch.tensor(spread, dtype=torch.float32)
    return known[layer.name]
