"""A mesh of Mach-Zehnder interferometers with light monitors, and its gradient measured by three passes of light.

T(θ, φ) = i e^{iθ/2} [[e^{iφ} sin θ/2, cos θ/2], [e^{iφ} cos θ/2, -sin θ/2]] on neighbouring modes, in a rectangle.
Valid without loss: the backward pass relies on reciprocity.

Source: Hughes et al. 2018, Optica 5, 864; Pai et al. 2023, Science 380, 398. Mesh: Clements et al. 2016, Optica 3,
1460.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["PhotonicMesh"]

Array = np.ndarray[Any, Any]


class PhotonicMesh:
    """A rectangle of interferometers on `modes` modes.

    Args:
        modes: Number of modes.
        seed: Seed of the first phases.
        phase_error_rad: Standard deviation of fixed errors of the phases, unknown to whoever trains.
    """

    def __init__(self, modes: int, seed: int = 0, phase_error_rad: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.modes = modes
        self.places = [(layer, top) for layer in range(modes) for top in range(layer % 2, modes - 1, 2)]
        self.phases = rng.uniform(0.0, 2.0 * np.pi, (len(self.places), 2))
        self._errors = phase_error_rad * rng.standard_normal(self.phases.shape)
        self.passes = 0

    def forward(self, x: Array) -> tuple[Array, list[tuple[Array, Array]]]:
        """Send light through.

        Args:
            x: Complex amplitudes, batch by modes.

        Returns:
            Amplitudes at the outputs, and the fields behind both phase shifters of every interferometer.
        """
        self.passes += len(x)
        field = x.astype(np.complex128).copy()
        seen = []
        for (_, top), (theta, phi) in zip(self.places, self.phases + self._errors, strict=True):
            a, b = field[:, top] * np.exp(1j * phi), field[:, top + 1]
            upper, lower = _couple(a, b)
            upper = upper * np.exp(1j * theta)
            seen.append((a, upper))
            field[:, top], field[:, top + 1] = _couple(upper, lower)
        return field, seen

    def backward(self, y: Array) -> list[tuple[Array, Array]]:
        """Send light in at the outputs; fields at both phase shifters of every interferometer, first one first."""
        self.passes += len(y)
        field = y.astype(np.complex128).copy()
        seen: list[tuple[Array, Array]] = []
        for (_, top), (theta, phi) in zip(self.places[::-1], (self.phases + self._errors)[::-1], strict=True):
            upper, lower = _couple(field[:, top], field[:, top + 1])
            at_theta = upper
            a, b = _couple(upper * np.exp(1j * theta), lower)
            seen.append((a, at_theta))
            field[:, top], field[:, top + 1] = a * np.exp(1j * phi), b
        return seen[::-1]

    def adjoint_gradient(self, x: Array, slope: Array) -> Array:
        """Gradient of a loss by phase (interferometers by θ, φ) from powers at the phase shifters.

        Args:
            x: Inputs, batch by modes.
            slope: Derivative of the loss by the conjugate of the outputs, batch by modes.

        Three passes: forward, backward with the error, and both together; the loss's derivative by a phase is the
        interference term that the third power has over the first two.
        """
        forward = self.forward(x)[1]
        backward = self.backward(slope.conj())
        self.passes += len(x)
        found = np.empty_like(self.phases)
        for number, (there, back) in enumerate(zip(forward, backward, strict=True)):
            for column, (e, a) in enumerate(((there[1], back[1]), (there[0], back[0]))):
                together = np.abs(e + 1j * a.conj()) ** 2
                found[number, column] = -np.sum(together - np.abs(e) ** 2 - np.abs(a) ** 2)
        return found


def _couple(a: Array, b: Array) -> tuple[Array, Array]:
    """A 50:50 coupler."""
    return (a + 1j * b) / np.sqrt(2.0), (1j * a + b) / np.sqrt(2.0)
