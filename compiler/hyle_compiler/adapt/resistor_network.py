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

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """Voltages of every layer, batch by nodes: inputs (of positive sign, with a bias), hidden, outputs.

    `drive` is the current that the inputs, which no nudge changes, send into the first nodes that are free.
    """

    voltages: tuple[Array, ...]
    drive: Array

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
        dtype: Of conductances and voltages; float32 settles twice as fast, to a tolerance of about 1e-6.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int = 0,
        gain: float = 60.0,
        g_min: float = 1e-5,
        g_max: float = 10.0,
        tolerance: float = 1e-7,
        dtype: type[np.floating[Any]] = np.float64,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._gain, self._tolerance = gain, tolerance
        self.g_min, self.g_max = g_min, g_max
        nodes = [2 * (sizes[0] + 1), *sizes[1:]]
        self.conductances: list[Array] = [
            np.clip(rng.uniform(-1.0, 1.0, (a, b)) / np.sqrt(a), g_min, g_max).astype(dtype) for a, b in pairwise(nodes)
        ]
        self._bounds = [tuple(b.astype(dtype) for b in _diodes(size)) for size in nodes[1:-1]]
        self._dtype = dtype

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
        first = self._sources(inputs)
        half = first.shape[1]
        drive = first @ (self.conductances[0][:half] - self.conductances[0][half:])
        if start is None:
            free = tuple(np.zeros((len(inputs), g.shape[1]), self._dtype) for g in self.conductances)
        else:
            free = start.voltages[1:]
        return self._settled(Settled((first, *free), drive), nudge, targets)

    def _settled(self, start: Settled, nudge: float, targets: Array | None) -> Settled:
        """Settle from a state whose sources stay as they are."""
        layers, drive, totals = list(start.voltages), start.drive, self._totals()
        for _ in range(500):
            moved = 0.0
            for index in (*range(1, len(layers)), *range(len(layers) - 2, 0, -1)):
                new = self._relaxed(layers, index, drive, totals, nudge, targets)
                moved = max(moved, float(np.abs(new - layers[index]).max(initial=0.0)))
                layers[index] = new
            if moved <= self._tolerance * self._gain:
                break
        return Settled(tuple(layers), drive)

    def equilibrium_gradient(self, inputs: Array, targets: Array, beta: float) -> tuple[list[Array], Settled]:
        """Gradient of the mean cost by conductance, from two nudged states, and the free state.

        Each entry uses only the two voltages at its own resistor:
        ((ΔV at +β)² - (ΔV at -β)²) / 4β.
        """
        free = self.settle(inputs)
        plus = self._settled(free, beta, targets)
        minus = self._settled(free, -beta, targets)
        return [change / (4.0 * beta) for change in _changes(plus, minus)], free

    def coupled_gradient(self, inputs: Array, targets: Array, clamp: float) -> tuple[list[Array], Settled]:
        """Direction of coupled learning: outputs held at free + clamp·(target - free), over the clamp."""
        free = self.settle(inputs)
        held = free.outputs + clamp * (targets - free.outputs)
        clamped = self._settled(free, 1e9, held)
        return [change / (2.0 * clamp) for change in _changes(clamped, free)], free

    def descend(self, gradients: Sequence[Array], rates: Sequence[float]) -> None:
        """Step against a gradient and keep every conductance in range."""
        for g, gradient, rate in zip(self.conductances, gradients, rates, strict=True):
            g -= rate * gradient
            np.clip(g, self.g_min, self.g_max, out=g)

    def _sources(self, inputs: Array) -> Array:
        """Voltages of the sources of positive sign; those of negative sign are the same with the other sign."""
        ones = np.ones((len(inputs), 1), self._dtype)
        driven: Array = np.concatenate([inputs.astype(self._dtype), ones], axis=1) * self._dtype(self._gain)
        return driven

    def _totals(self) -> list[Array]:
        """All conductance at every node of every free layer."""
        totals = [g.sum(axis=0) for g in self.conductances]
        return [t + g.sum(axis=1) for t, g in zip(totals, self.conductances[1:], strict=False)] + totals[-1:]

    def _relaxed(
        self,
        layers: list[Array],
        index: int,
        drive: Array,
        totals: list[Array],
        nudge: float,
        targets: Array | None,
    ) -> Array:
        """Exact minimum over one layer, the others held."""
        current = drive if index == 1 else layers[index - 1] @ self.conductances[index - 1]
        total = totals[index - 1]
        if index < len(self.conductances):
            low, high = self._bounds[index - 1]
            return np.clip((current + layers[index + 1] @ self.conductances[index].T) / total, low, high)
        if nudge and targets is not None:
            current, total = current + nudge * targets.astype(self._dtype), total + self._dtype(nudge)
        out: Array = current / total
        return out


def _diodes(size: int) -> tuple[Array, Array]:
    """Lowest and highest voltage of hidden nodes: the first half at or above zero, the others at or below."""
    positive = np.arange(size) < (size + 1) // 2
    return np.where(positive, 0.0, -np.inf), np.where(positive, np.inf, 0.0)


def _changes(one: Settled, other: Settled) -> list[Array]:
    """Mean over the batch of the squared voltage across every resistor in one state, less that in the other.

    Written in differences of the states, which are small, so that rounding does not swamp them.
    """
    found = []
    pairs = zip(pairwise(one.voltages), pairwise(other.voltages), strict=True)
    for number, ((a, b), (a_other, b_other)) in enumerate(pairs):
        moved = b - b_other
        squares = np.mean(moved * (b + b_other), axis=0)
        if number == 0:
            product = 2.0 * (a.T @ moved) / a.dtype.type(len(a))
            found.append(np.concatenate([squares - product, squares + product]))
            continue
        below = a - a_other
        product = 2.0 * (a.T @ moved + below.T @ b_other) / a.dtype.type(len(a))
        found.append(np.mean(below * (a + a_other), axis=0)[:, None] + squares - product)
    return found
