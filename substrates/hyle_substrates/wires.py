"""Wires with resistance: what a crossbar's inputs reach and what its columns still carry (IR drop).

Kirchhoff's equations of the whole grid, solved without approximation: bit lines are eliminated column by column, word
lines by a block recursion from the far end to the sources. Every crosspoint joins a word line, driven from the left
through one segment, with a bit line, held at zero volts below the last row through one segment. Validity: ohmic
devices, steady state, sources and amplifiers without resistance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hyle_substrates.profile import Profile, Wires

__all__ = ["effective_conductance", "loaded"]

Floats = np.ndarray[Any, np.dtype[np.float64]]


def effective_conductance(conductance: Floats, word_ohm: float, bit_ohm: float) -> Floats:
    """Conductances from inputs to columns that a grid with resistive wires shows.

    Args:
        conductance: Of the devices, rows by columns, in siemens, ≥ 0.
        word_ohm: Resistance of one segment of a word line, > 0.
        bit_ohm: Resistance of one segment of a bit line, > 0.

    Returns:
        Rows by columns, in siemens: column currents are inputs (volts) times this.
    """
    rows, cols = conductance.shape
    along, down = 1.0 / word_ohm, 1.0 / bit_ohm
    inside = np.linalg.solve(_bit_lines(conductance, down), _diagonals(conductance.T))
    drawn = _diagonals(conductance.T) - conductance.T[:, :, None] * inside
    identity = np.eye(rows)
    passed = np.empty((cols, rows, rows))
    beyond = along * identity
    for column in range(cols - 1, -1, -1):
        passed[column] = np.linalg.solve(2.0 * along * identity + drawn[column] - beyond, along * identity)
        beyond = along * passed[column]
    reached, out = identity, np.empty_like(conductance)
    for column in range(cols):
        reached = passed[column] @ reached
        out[:, column] = down * inside[column, -1] @ reached
    return out


def _diagonals(values: Floats) -> Floats:
    out: Floats = values[:, :, None] * np.eye(values.shape[1])
    return out


def _bit_lines(conductance: Floats, down: float) -> Floats:
    """Nodal matrices of the bit lines, columns by rows by rows."""
    rows = len(conductance)
    segments = np.full(rows, 2.0 * down)
    segments[0] = down
    line = np.diag(segments) - down * (np.eye(rows, k=1) + np.eye(rows, k=-1))
    out: Floats = line + _diagonals(conductance.T)
    return out


def loaded(weights: Floats, profile: Profile) -> Floats:
    """Effective weights of a tile (rows by columns, highest weight 1), its wires' resistance included if there is one.

    Devices that differ in sign lie in crossbars of their own; the one that a sign does not need counts as open.
    """
    wires = profile.wires
    if wires is None:
        return weights
    if profile.weights.encoding == "offset":
        return 2.0 * _on(wires, (1.0 + weights) / 2.0) - 1.0
    return _on(wires, weights) - _on(wires, -weights)


def _on(wires: Wires, relative: Floats) -> Floats:
    unit = wires.g_max_us * 1e-6
    return effective_conductance(np.clip(relative, 0.0, None) * unit, wires.word_ohm, wires.bit_ohm) / unit
