"""Descent along gradients: Adam with a schedule and weight clipping, relative to what a layer holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from hyle_compiler.adapt.pace import Pace
from hyle_compiler.adapt.torch_view import PhysicalLayer, TorchView

__all__ = ["Descent", "clip_columns", "schedule"]

LEAST = 0.05  # of the calibrated range: no step may turn it round


def schedule(rate: float, pace: Pace, warm_up: int = 20) -> Callable[[int], float]:
    """Learning rate by step: linear warm-up, then a cosine to zero at the end of the steps or of the time."""

    def at(step: int) -> float:
        if step < warm_up:
            return rate * (step + 1) / warm_up
        return 0.5 * rate * (1.0 + math.cos(math.pi * pace.progress(step, warm_up)))

    return at


class Descent:
    """Adam with a schedule and weight clipping, on the physical layers' parameters.

    Steps are relative: to the root mean square of a layer's weights, and for its bias of its answers, so that layers
    whose inputs are pixels and layers whose inputs are features learn alike.

    Args:
        view: The model.
        rate: Highest relative learning rate.
        pace: Steps and time of the schedule.
        clip: Weights are clipped at so many standard deviations of their column; None for not at all.
        ranges: Whether input ranges are learned too, of layers that have one for all samples.
    """

    def __init__(self, view: TorchView, rate: float, pace: Pace, clip: float | None, *, ranges: bool = False) -> None:
        self._layers, self._clip = view.physical, clip
        self._scales: list[float] = []
        self._ranged = [
            layer for layer in self._layers if ranges and layer.profile.dac.levels and not layer.calibrated.dynamic
        ]
        groups = []
        for layer in self._layers:
            weights = float(layer.matrix.detach().square().mean().sqrt())
            answers = float(np.sqrt(np.mean(layer.calibrated.wanted.astype(np.float64) ** 2)))
            for parameter, scale in ((layer.matrix, weights), (layer.bias, 0.1 * answers)):
                groups.append({"params": [parameter]})
                self._scales.append(scale or 1.0)
        for layer in self._ranged:
            layer.full_scale.requires_grad_(True)
            groups.append({"params": [layer.full_scale]})
            self._scales.append(float(layer.full_scale.detach()))
        self._adam = torch.optim.Adam(groups, lr=rate)
        self._rate, self._step = schedule(rate, pace), 0

    def apply(self) -> None:
        """Take one step along the gradients that are there, then clear them."""
        for group, scale in zip(self._adam.param_groups, self._scales, strict=True):
            group["lr"] = self._rate(self._step) * scale
        self._step += 1
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            for layer in self._ranged:
                layer.full_scale.clamp_min_(LEAST * layer.calibrated.full_scale)
        if self._clip is not None:
            for layer in self._layers:
                clip_columns(layer, self._clip)


def clip_columns(layer: PhysicalLayer, deviations: float) -> None:
    """Clip weights at so many standard deviations of their column: the range of the matter is for all of them."""
    bound = deviations * layer.matrix.detach().std(0, correction=0)
    with torch.no_grad():
        layer.matrix.clamp_(-bound, bound)
