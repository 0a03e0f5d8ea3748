"""A lossless lattice of nonlinear oscillators that learns by an echo of itself.

H = Σ p²/2 + Σ k_i q_i²/2 + Σ q_i⁴/4 + Σ c_i (q_i - q_{i+1})²/2. After the forward run momenta are reversed and shifted
a little along the loss's gradient, and the lattice runs back; parameters move by what the echo differs from the forward
run. Leapfrog steps are reversible, so that the echo without a shift is exact.

Source: López-Pastor & Marquardt 2023, Phys. Rev. X 13, 031020 (self-learning machines, Hamiltonian echo).
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["OscillatorLattice"]

Array = np.ndarray[Any, np.dtype[np.float64]]


class OscillatorLattice:
    """Oscillators in a row.

    Args:
        sites: Number of oscillators.
        steps: Leapfrog steps of one run.
        dt: Length of a step.
        seed: Seed of the first parameters.
    """

    def __init__(self, sites: int, steps: int = 40, dt: float = 0.05, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.springs: Array = rng.uniform(0.5, 1.5, sites)
        self.couplings: Array = rng.uniform(0.5, 1.5, sites - 1)
        self._steps, self._dt = steps, dt
        self.passes = 0

    def run(self, q: Array, p: Array) -> tuple[Array, Array, Array, Array]:
        """Let it evolve.

        Args:
            q: Positions, batch by sites.
            p: Momenta, batch by sites.

        Returns:
            Positions and momenta at the end, and the time integrals of q²/2 (batch by sites) and of the squared
            differences/2 (batch by couplings), which a local element can measure.
        """
        self.passes += len(q)
        q, p = q.copy(), p.copy()
        own, shared = np.zeros_like(q), np.zeros((len(q), q.shape[1] - 1))
        for _ in range(self._steps):
            q = q + 0.5 * self._dt * p
            own += self._dt * 0.5 * q**2
            shared += self._dt * 0.5 * (q[:, :-1] - q[:, 1:]) ** 2
            p = p + self._dt * self._force(q)
            q = q + 0.5 * self._dt * p
        return q, p, own, shared

    def echo_gradient(self, q: Array, p: Array, slope: Any, nudge: float) -> tuple[Array, Array]:
        """Gradient of a loss of the final positions, by spring and by coupling, summed over the batch.

        Args:
            q: First positions, batch by sites.
            p: First momenta, batch by sites.
            slope: Gives the derivative of the loss by the final positions, batch by sites.
            nudge: Size of the shift, to both sides; the estimate is exact as it goes to 0.
        """
        last_q, last_p, _, _ = self.run(q, p)
        shift = slope(last_q)
        found = []
        for sign in (1.0, -1.0):
            _, _, own, shared = self.run(last_q, -last_p + sign * nudge * shift)
            found.append((own.sum(axis=0), shared.sum(axis=0)))
        (own_p, shared_p), (own_m, shared_m) = found
        return (own_m - own_p) / (2.0 * nudge), (shared_m - shared_p) / (2.0 * nudge)

    def _force(self, q: Array) -> Array:
        force = -self.springs * q - q**3
        pull = self.couplings * (q[:, :-1] - q[:, 1:])
        force[:, :-1] -= pull
        force[:, 1:] += pull
        return force
