"""Coupled oscillators whose phases settle where their coupling energy is low (an oscillator Ising machine).

    dθ_i/dt = - K · Σ_j J_ij sin(θ_i - θ_j) - K · h_i sin θ_i - K_s(t) · sin 2θ_i

descends the energy -Σ J_ij cos(θ_i - θ_j) - Σ h_i cos θ_i (each pair once) plus a term that makes phases binary. Its
strength K_s rises linearly from 0 over the run. Inputs are the fields h (their number is that of the oscillators),
parameters the couplings J_ij, i < j, row by row; both are -1 to 1 and rounded to `coupling_bits`. Readings are cos θ at
the end, from phases rounded to `phase_bits`. Every sample begins at the device's own phases. Time is in units of 1/K.

Sources: Wang & Roychowdhury 2019, OIM: Oscillator-based Ising Machines, arXiv 1903.07163 (equation and Lyapunov
function); arXiv 2505.02103 (10-bit couplings, 4-bit phases suffice for equilibrium propagation). Validity: phase model
(weak coupling, equal amplitudes and frequencies), no phase noise.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from hyle_substrates.bounds import NonNegative, Positive, keep
from hyle_substrates.box_profile import BoxProfile, constants_of, demand_size
from hyle_substrates.draws import Float64s
from hyle_substrates.substrate import Draw

__all__ = ["BLACK_BOX", "OscillatorConstants", "Oscillators", "couplings", "evolve"]

MOST_STEPS = 1_000_000
Bits = Annotated[int, msgspec.Meta(ge=0, le=24)]


class OscillatorConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants: length and step of a run in units of 1/K, final K_s over K; 0 bits stand for no rounding."""

    duration: Positive
    step: Positive
    binding: NonNegative
    coupling_bits: Bits = 0
    phase_bits: Bits = 0


def couplings(values: Float64s, count: int) -> Float64s:
    """Return symmetric matrices, samples by `count` by `count`, of the pairs' values."""
    matrix = np.zeros((len(values), count, count))
    rows, cols = np.triu_indices(count, 1)
    matrix[:, rows, cols] = matrix[:, cols, rows] = values
    return matrix


def evolve(phases: Float64s, coupling: Float64s, field: Float64s, c: OscillatorConstants) -> Float64s:
    """Integrate by the classical Runge-Kutta method; phases, samples by oscillators, in radians."""
    steps = max(1, round(c.duration / c.step))
    h = c.duration / steps

    def slope(theta: Float64s, time: float) -> Float64s:
        sine, cosine = np.sin(theta), np.cos(theta)
        pulled = sine * np.einsum("bij,bj->bi", coupling, cosine) - cosine * np.einsum("bij,bj->bi", coupling, sine)
        out: Float64s = -pulled - field * sine - c.binding * (time / c.duration) * np.sin(2.0 * theta)
        return out

    for index in range(steps):
        t = index * h
        a = slope(phases, t)
        b = slope(phases + h / 2 * a, t + h / 2)
        d = slope(phases + h / 2 * b, t + h / 2)
        e = slope(phases + h * d, t + h)
        phases = phases + h / 6 * (a + 2 * b + 2 * d + e)
    return phases


def _rounded(values: Float64s, bits: int) -> Float64s:
    if not bits:
        return values
    levels = 2 ** (bits - 1) - 1 or 1
    out: Float64s = np.rint(values * levels) / levels
    return out


class Oscillators:
    """The physics of this page."""

    def parameters(self, profile: BoxProfile) -> int:
        """One coupling for each pair."""
        c = constants_of(profile, OscillatorConstants)
        keep(
            profile.name,
            ("physics.step", c.step <= c.duration, "is above duration", "Give a step that fits into the run."),
            (
                "physics.step",
                c.duration <= MOST_STEPS * c.step,
                f"is below one part in {MOST_STEPS:,} of duration",
                "Give a longer step or a shorter run.",
            ),
        )
        demand_size(profile, "outputs", profile.inputs)
        return profile.inputs * (profile.inputs - 1) // 2

    def made(self, profile: BoxProfile, draw: Draw) -> dict[str, Float64s]:
        """Phases to begin with, of its own, around a quarter turn."""
        return {"phases": np.pi / 2.0 + 0.3 * draw("phases", (profile.inputs,))}

    def respond(
        self, profile: BoxProfile, device: dict[str, Float64s], parameters: Float64s, inputs: Float64s
    ) -> Float64s:
        """Let the phases settle; contract: `BoxPhysics.respond`."""
        c = constants_of(profile, OscillatorConstants)
        coupling = couplings(_rounded(parameters, c.coupling_bits), profile.inputs)
        begin = np.broadcast_to(device["phases"], inputs.shape)
        phases = evolve(begin, coupling, _rounded(inputs, c.coupling_bits), c)
        if c.phase_bits:
            unit = 2.0 * np.pi / 2**c.phase_bits
            phases = np.rint(phases / unit) * unit
        out: Float64s = np.cos(phases)
        return out


BLACK_BOX = Oscillators()
