"""A resistor network that settles, and two ways in which it learns: equilibrium propagation and coupled learning.

Layers of nodes joined by conductances; inputs are driven with both signs; hidden nodes carry ideal diodes, so that half
of them stay at or above zero and half at or below. It settles where the dissipated power is least. Valid for ideal
diodes and sources; conductances from `g_min` to `g_max`.

Sources: Scellier & Bengio 2017, Front. Comput. Neurosci. 11, 24; Kendall et al. 2020, arXiv 2006.01981; settling by
exact block descent: Scellier 2024, arXiv 2402.11674; coupled learning: Stern et al. 2021, Phys. Rev. X 11, 021045.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["ResistorNetwork", "Settled", "cost"]

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """Voltages of every layer, batch by nodes: inputs (doubled, with a bias pair), hidden, outputs."""

    voltages: tuple[Array, ...]

    @property
    def outputs(self) -> Array:
        """Voltages of the output nodes, batch by outputs."""
        return self.voltages[-1]


def cost(outputs: Array, targets: Array) -> Array:
    """Half the squared distance, one a sample."""
    distance: Array = 0.5 * np.sum((outputs - targets) ** 2, axis=1)
    return distance


class ResistorNetwork:
    """A layered network.

    Args:
        sizes: Inputs, hidden nodes of each layer, outputs.
        seed: Seed of the first conductances.
        gain: Amplification of the inputs, which keeps voltages from dying out towards the outputs.
        g_min: Lowest conductance.
        g_max: Highest conductance.
        tolerance: Settled when no voltage moves by more than this share of the inputs' amplitude.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int = 0,
        gain: float = 60.0,
        g_min: float = 1e-5,
        g_max: float = 10.0,
        tolerance: float = 1e-7,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._gain, self._tolerance = gain, tolerance
        self.g_min, self.g_max = g_min, g_max
        nodes = [2 * (sizes[0] + 1), *sizes[1:]]
        self.conductances: list[Array] = [
            np.clip(rng.uniform(-1.0, 1.0, (a, b)) / np.sqrt(a), g_min, g_max) for a, b in pairwise(nodes)
        ]
        self._bounds = [_diodes(size) for size in nodes[1:-1]]

    def settle(
        self, inputs: Array, nudge: float = 0.0, targets: Array | None = None, start: Settled | None = None
    ) -> Settled:
        """Let the network settle.

        Args:
            inputs: Batch by inputs.
            nudge: Conductance β that ties the outputs to the targets; negative pushes them away.
            targets: Batch by outputs.
            start: Where it begins; zeros by default.

        Returns:
            The least of (dissipated power)/2 + β·cost.
        """
        ones = np.ones((len(inputs), 1))
        signed = np.concatenate([inputs, ones], axis=1) * self._gain
        first = np.concatenate([signed, -signed], axis=1)
        layers = [first, *(np.zeros((len(inputs), g.shape[1])) for g in self.conductances)]
        if start is not None:
            layers[1:] = [v.copy() for v in start.voltages[1:]]
        for _ in range(500):
            moved = 0.0
            for index in (*range(1, len(layers)), *range(len(layers) - 2, 0, -1)):
                new = self._relaxed(layers, index, nudge, targets)
                moved = max(moved, float(np.abs(new - layers[index]).max(initial=0.0)))
                layers[index] = new
            if moved <= self._tolerance * self._gain:
                break
        return Settled(tuple(layers))

    def equilibrium_gradient(self, inputs: Array, targets: Array, beta: float) -> tuple[list[Array], Settled]:
        """Gradient of the mean cost by conductance, from two nudged states, and the free state.

        Each entry uses only the two voltages at its own resistor:
        ((ΔV at +β)² - (ΔV at -β)²) / 4β.
        """
        free = self.settle(inputs)
        plus = self.settle(inputs, beta, targets, free)
        minus = self.settle(inputs, -beta, targets, free)
        pairs = zip(_drops(plus), _drops(minus), strict=True)
        return [(a - b) / (4.0 * beta) for a, b in pairs], free

    def coupled_gradient(self, inputs: Array, targets: Array, clamp: float) -> tuple[list[Array], Settled]:
        """Direction of coupled learning: outputs held at free + clamp·(target - free), over the clamp."""
        free = self.settle(inputs)
        held = free.outputs + clamp * (targets - free.outputs)
        clamped = self.settle(inputs, 1e9, held, free)
        pairs = zip(_drops(clamped), _drops(free), strict=True)
        return [(a - b) / (2.0 * clamp) for a, b in pairs], free

    def descend(self, gradients: Sequence[Array], rates: Sequence[float]) -> None:
        """Step against a gradient and keep every conductance in range."""
        for g, gradient, rate in zip(self.conductances, gradients, rates, strict=True):
            g -= rate * gradient
            np.clip(g, self.g_min, self.g_max, out=g)

    def _relaxed(self, layers: list[Array], index: int, nudge: float, targets: Array | None) -> Array:
        """Exact minimum over one layer, the others held."""
        below = self.conductances[index - 1]
        current, total = layers[index - 1] @ below, below.sum(axis=0)
        if index < len(self.conductances):
            above = self.conductances[index]
            current = current + layers[index + 1] @ above.T
            low, high = self._bounds[index - 1]
            return np.clip(current / (total + above.sum(axis=1)), low, high)
        if nudge and targets is not None:
            current, total = current + nudge * targets, total + nudge
        out: Array = current / total
        return out


def _diodes(size: int) -> tuple[Array, Array]:
    """Lowest and highest voltage of hidden nodes: the first half at or above zero, the others at or below."""
    positive = np.arange(size) < (size + 1) // 2
    return np.where(positive, 0.0, -np.inf), np.where(positive, np.inf, 0.0)


def _drops(state: Settled) -> list[Array]:
    """Mean squared voltage across every resistor."""
    found = []
    for a, b in pairwise(state.voltages):
        mean_a, mean_b = np.mean(a**2, axis=0)[:, None], np.mean(b**2, axis=0)[None, :]
        found.append(mean_a + mean_b - 2.0 * (a.T @ b) / len(a))
    return found
