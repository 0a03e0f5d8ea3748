"""A circuit of diodes and resistors that computes, and a model of it that is wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Circuit"]

Array = np.ndarray[Any, np.dtype[np.float64]]
KNEE_V = 0.5


@dataclass(frozen=True, slots=True)
class Circuit:
    """Every input drives every hidden node through a resistor; nodes are tied together and bent by one diode each.

    Attributes:
        inputs: Number of inputs, and of outputs.
        seed: Of the layout, which the model knows.
        tolerance: Relative standard deviation of the resistors as built, which it does not.
        built: Seed of the very circuit.
    """

    inputs: int = 10
    seed: int = 0
    tolerance: float = 0.4
    built: int = 1

    @property
    def sheet(self) -> tuple[Array, Array]:
        """Conductances in mS: inputs by nodes (three in ten beside the diagonal), and nodes by nodes, as drawn."""
        rng = np.random.default_rng(self.seed)
        shape = (self.inputs, self.inputs)
        into = rng.uniform(0.2, 1.0, shape) * (rng.random(shape) < 0.3) + 2.0 * np.eye(self.inputs)
        between = np.triu(rng.uniform(0.05, 0.2, shape) * (rng.random(shape) < 0.4), 1)
        return into, between

    def netlist(self, path: Path) -> Path:
        """Write the circuit as built: resistors off by their tolerance, diodes both ways, a supply behind each."""
        rng = np.random.default_rng(1000 + self.built)
        into, between = (
            g * np.clip(1.0 + self.tolerance * rng.standard_normal(g.shape), 0.2, None) for g in self.sheet
        )
        n = range(self.inputs)
        nodes = " ".join([*(f"i{k}" for k in n), *(f"o{k}" for k in n)])
        lines = [f".subckt hyle {nodes}"]
        for a in n:
            lines += [f"R{a}_{b} i{a} o{b} {float(1e3 / into[a, b])!r}" for b in n if into[a, b] > 0.0]
            lines += [f"RS{a}_{b} o{a} o{b} {float(1e3 / between[a, b])!r}" for b in n if between[a, b] > 0.0]
            diode = f"D{a} o{a} w{a} bent" if a % 2 else f"D{a} w{a} o{a} bent"
            lines += [diode, f"VW{a} w{a} 0 {0.1 if a % 2 else -0.1}", f"RG{a} o{a} 0 2k"]
        path.write_text("\n".join([*lines, ".model bent d(is=1e-7 n=1.8 rs=5)", ".ends hyle", ""]))
        return path

    def linear(self) -> Array:
        """Nodes' voltages by inputs' voltages without any diode, resistors as drawn: inputs by nodes."""
        into, between = self.sheet
        both = between + between.T
        laplacian = np.diag(into.sum(axis=0) + both.sum(axis=0) + 0.5) - both
        found: Array = np.linalg.solve(laplacian, into.T).T
        return found
