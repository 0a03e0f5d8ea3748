"""A twin fitted to one device: what every place of it holds for what was written there, over all the writes so far.

Source: dual adaptive training, Zheng et al. 2022, arXiv 2212.06141 (a model of the device's error, learned beside the
task). Valid for errors that stay with a place and grow with its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TypeAlias

import torch

from hyle_compiler.adapt.matter import Drawn, corrected
from hyle_compiler.adapt.method import Task
from hyle_compiler.adapt.torch_view import Held, PhysicalLayer

__all__ = ["Fitted", "place_gains"]

Tensor: TypeAlias = torch.Tensor
_TINY = 1e-12


class Fitted(Drawn):
    """Devices drawn anew around what one device was measured to be.

    Args:
        task: The task.
        generator: Source of the draws.
    """

    def __init__(self, task: Task, generator: torch.Generator) -> None:
        super().__init__(task.profile, task.compensation, generator)
        self._sums: dict[str, list[tuple[Tensor, Tensor, Tensor, int]]] = {}
        self._gains: dict[str, list[Tensor]] = {}

    def fit(self, probed: Mapping[str, Sequence[tuple[Tensor, Tensor]]]) -> None:
        """Take in one write of the device: answers of single rows and what was written, a block, by layer."""
        for name, blocks in probed.items():
            before = self._sums.get(name) or [(0.0, 0.0, 0.0, 0)] * len(blocks)
            self._sums[name] = [
                (both + said * wrote, squared + wrote * wrote, power + said * said, count + 1)
                for (said, wrote), (both, squared, power, count) in zip(blocks, before, strict=True)
            ]
            self._gains[name] = [place_gains(*sums) for sums in self._sums[name]]

    def at(self, generator: torch.Generator, age_s: float) -> Fitted:
        """The same device at one age, from other draws."""
        other = copy(self)
        other._generator, other._given, other._off = generator, age_s, {}
        other.renew()
        return other

    def hold(self, layer: PhysicalLayer) -> Held:
        """Draw one instance of a layer."""
        gains = self._gains[layer.name]
        found = [
            (self._instance(layer, number, targets) * gain, targets, top)
            for number, ((targets, top), gain) in enumerate(zip(layer.relative(), gains, strict=True))
        ]
        return corrected(layer, found, self._compensation, self._moments)


def place_gains(both: Tensor, squared: Tensor, power: Tensor, writes: int) -> Tensor:
    """Gain of every place relative to the block's mean, from sums over its writes.

    A place's own least-squares gain is drawn towards the product of its row's and its column's, by as much as its error
    outweighs what places of one row and column differ by (empirical Bayes).

    Args:
        both: Sum of answer times target, rows by columns.
        squared: Sum of squared targets, the same shape.
        power: Sum of squared answers, the same shape.
        writes: How many.
    """
    mean = both.sum() / squared.sum().clamp_min(_TINY)
    if not float(mean) > 0.0:
        return torch.ones_like(both)
    both, power = both / mean, power / mean**2
    row = _ratio(both.sum(1, keepdim=True), squared.sum(1, keepdim=True))
    column = _ratio((both * row).sum(0, keepdim=True), (squared * row**2).sum(0, keepdim=True))
    prior = row * column
    error = (power - 2.0 * prior * both + prior**2 * squared).clamp_min(0.0)
    spread = (both - prior * squared) ** 2
    noise, slope = _line(squared, error, spread, writes)
    ridge = noise / slope if slope > 0.0 else float("inf")
    if ridge == float("inf"):
        return prior
    return ((both + ridge * prior) / (squared + ridge)).clamp(0.0, 4.0)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > _TINY, above / below.clamp_min(_TINY), torch.ones_like(above)).clamp(0.0, 4.0)


def _line(squared: Tensor, error: Tensor, spread: Tensor, writes: int) -> tuple[float, float]:
    """Variance of an answer's own error, and variance of the gains of places.

    Over the writes of a place with squared targets q in sum, the residuals' squares sum to writes·noise + slope·q in
    the mean, and the square of their product with the targets is noise·q + slope·q².
    """
    q, q2 = float(squared.mean()), float((squared**2).mean())
    a, b = float(error.mean()), float(spread.mean())
    determinant = writes * q2 - q * q
    if determinant <= _TINY:
        return a, 0.0
    noise, slope = (a * q2 - b * q) / determinant, (b * writes - a * q) / determinant
    return max(noise, _TINY), max(slope, 0.0)
