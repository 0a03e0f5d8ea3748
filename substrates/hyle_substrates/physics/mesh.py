"""Meshes of Mach-Zehnder interferometers: how a unitary matrix becomes phases, and phases with faults a matrix.

One interferometer on two neighbouring waveguides, with perfect splitters, is
T(θ, φ) = i e^{iθ/2} [[e^{iφ} sin θ/2, cos θ/2], [e^{iφ} cos θ/2, -sin θ/2]].

Sources: Reck et al. 1994, Phys. Rev. Lett. 73, 58 (triangle); Clements et al. 2016, Optica 3, 1460 (rectangle);
Bandyopadhyay, Hamerly, Englund 2021, Optica 8, 1247 (correction of splitter faults by the phases in reach).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Faults", "Mesh", "clements", "compose", "configure", "interferometer", "layers", "reck"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Complexes = np.ndarray[Any, np.dtype[np.complex128]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
# Elements of a unitary matrix below this are taken for what rounding leaves of zero: 2e-14 in a mesh of 12 ports.
NOTHING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Interferometers in the order that light meets them, then one phase a waveguide.

    `mode`: upper waveguide of each; `theta`, `phi`: inner and outer phase in radians; `screen`: last phases in radians.
    """

    mode: Ints
    theta: Floats
    phi: Floats
    screen: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Faults:
    """What a mesh suffers: splitters' angles off 45° in radians (interferometers by 2), loss in dB of each."""

    splitters: Floats
    loss_db: float = 0.0


def interferometer(theta: Any, phi: Any, splitters: Any) -> Complexes:
    """Transfer matrices of interferometers, shape of `theta` plus 2 by 2; `splitters` has a last axis of 2."""
    first, second = np.pi / 4 + splitters[..., 0], np.pi / 4 + splitters[..., 1]
    c1, s1, c2, s2 = np.cos(first), 1j * np.sin(first), np.cos(second), 1j * np.sin(second)
    inner, outer = np.exp(1j * theta), np.exp(1j * phi)
    top = np.stack([(c2 * inner * c1 + s2 * s1) * outer, c2 * inner * s1 + s2 * c1], axis=-1)
    bottom = np.stack([(s2 * inner * c1 + c2 * s1) * outer, s2 * inner * s1 + c2 * c1], axis=-1)
    out: Complexes = np.stack([top, bottom], axis=-2)
    return out


def layers(mode: Ints, ports: int) -> list[Ints]:
    """Group interferometers that light meets at once: lists of indices into `mode`, first layer first."""
    depth = np.zeros(ports, dtype=np.int64)
    found: list[list[int]] = []
    for index, upper in enumerate(mode.tolist()):
        level = int(max(depth[upper], depth[upper + 1]))
        depth[upper] = depth[upper + 1] = level + 1
        if level == len(found):
            found.append([])
        found[level].append(index)
    return [np.array(indices, dtype=np.int64) for indices in found]


def compose(mesh: Mesh, faults: Faults | None = None) -> Complexes:
    """The matrix of a mesh, outputs by inputs."""
    ports = len(mesh.screen)
    splitters = np.zeros((len(mesh.mode), 2)) if faults is None else faults.splitters
    amplitude = 1.0 if faults is None else 10.0 ** (-faults.loss_db / 20.0)
    cells = interferometer(mesh.theta, mesh.phi, splitters) * amplitude
    field: Complexes = np.eye(ports, dtype=np.complex128)
    for indices in layers(mesh.mode, ports):
        upper = mesh.mode[indices]
        pair = np.stack([field[upper], field[upper + 1]], axis=1)
        mixed = cells[indices] @ pair
        field[upper], field[upper + 1] = mixed[:, 0], mixed[:, 1]
    out: Complexes = np.exp(1j * mesh.screen)[:, None] * field
    return out


def reck(unitary: Complexes) -> Mesh:
    """Decompose a unitary matrix into a triangle of interferometers.

    Args:
        unitary: Ports by ports.

    Returns:
        The mesh that composes to it.
    """
    work = unitary.astype(np.complex128)
    found: list[tuple[int, float, float]] = []
    for row in range(len(work) - 1, 0, -1):
        for column in range(row):
            found.append(_null_right(work, row, column))
    return _mesh(found, np.angle(np.diag(work)))


def clements(unitary: Complexes) -> Mesh:
    """Decompose a unitary matrix into a rectangle of interferometers; arguments as for `reck`."""
    work = unitary.astype(np.complex128)
    ports = len(work)
    right: list[tuple[int, float, float]] = []
    left: list[tuple[int, float, float]] = []
    for diagonal in range(ports - 1):
        for step in range(diagonal + 1):
            if diagonal % 2 == 0:
                right.append(_null_right(work, ports - 1 - step, diagonal - step))
            else:
                left.append(_null_left(work, ports - 1 - diagonal + step, step))
    screen = np.angle(np.diag(work))
    for upper, theta, phi in reversed(left):
        moved = _through_screen(screen, upper, theta, phi)
        right.append((upper, *moved))
    return _mesh(right, screen)


def _mesh(found: list[tuple[int, float, float]], screen: Floats) -> Mesh:
    mode, theta, phi = zip(*found, strict=True) if found else ((), (), ())
    return Mesh(np.array(mode, dtype=np.int64), np.array(theta), np.array(phi), screen.astype(np.float64))


def _cell(theta: float, phi: float) -> Complexes:
    return interferometer(np.float64(theta), np.float64(phi), np.zeros(2))


def _amplitude(found: complex) -> complex:
    """An element of a unitary matrix; what rounding leaves of zero has a phase that differs from machine to machine."""
    return found if abs(found) > NOTHING else 0.0j


def _null_right(work: Complexes, row: int, column: int) -> tuple[int, float, float]:
    """Null work[row, column] by the inverse of an interferometer on columns `column` and `column + 1`, in place."""
    a, b = _amplitude(work[row, column]), _amplitude(work[row, column + 1])
    theta = 2.0 * float(np.arctan2(abs(b), abs(a)))
    phi = float(np.angle(-a * np.conj(b))) if abs(a) * abs(b) > 0.0 else 0.0
    pair = work[:, column : column + 2] @ _cell(theta, phi).conj().T
    work[:, column : column + 2] = pair
    return column, theta, phi


def _null_left(work: Complexes, row: int, column: int) -> tuple[int, float, float]:
    """Null work[row, column] by an interferometer on rows `row - 1` and `row`, in place."""
    a, b = _amplitude(work[row - 1, column]), _amplitude(work[row, column])
    theta = 2.0 * float(np.arctan2(abs(a), abs(b)))
    phi = float(np.angle(b * np.conj(a))) if abs(a) * abs(b) > 0.0 else 0.0
    work[row - 1 : row + 1] = _cell(theta, phi) @ work[row - 1 : row + 1]
    return row - 1, theta, phi


def _through_screen(screen: Floats, upper: int, theta: float, phi: float) -> tuple[float, float]:
    """Move the inverse of an interferometer from before a screen of phases to after it, as one that is not inverse.

    Solves T(θ, φ)⁻¹ D = D' T(θ, φ') for D' and φ', with D = diag(e^{ia}, e^{ib}); changes `screen` in place.
    """
    a, b = screen[upper], screen[upper + 1]
    screen[upper], screen[upper + 1] = b - phi - theta + np.pi, b - theta + np.pi
    return theta, float(a - b)


def configure(mesh: Mesh, faults: Faults) -> Mesh:
    """Correct phases for measured faults of the splitters, as far as phases can.

    Every interferometer gets the inner phase whose splitting is nearest to the wanted one and an outer phase that makes
    up for the phases before it; what is left over goes on to the next, and at the end into the screen.
    """
    carried = np.zeros(len(mesh.screen))
    theta, phi = _reachable(mesh.theta, faults.splitters), np.empty_like(mesh.phi)
    have = interferometer(theta, np.zeros_like(theta), faults.splitters)
    want = interferometer(mesh.theta, np.zeros_like(theta), np.zeros_like(faults.splitters))
    have_angle, want_angle = np.angle(have), np.angle(want)
    for index, upper in enumerate(mesh.mode.tolist()):
        before, below = carried[upper], carried[upper + 1]
        strong = 0 if abs(have[index, 0, 1]) > abs(have[index, 1, 1]) else 1
        lead = _carry(have_angle[index], want_angle[index], below, strong)
        other = 1 - strong
        phi[index] = mesh.phi[index] + lead + want_angle[index, strong, 0] - have_angle[index, strong, 0] - before
        rest = (
            have_angle[index, other, 0] + phi[index] + before - mesh.phi[index] - want_angle[index, other, 0]
            if abs(have[index, other, 0]) > abs(have[index, other, 1])
            else _carry(have_angle[index], want_angle[index], below, other)
        )
        carried[upper], carried[upper + 1] = (lead, rest) if strong == 0 else (rest, lead)
    return Mesh(mesh.mode, theta, phi, mesh.screen - carried)


def _carry(have: Floats, want: Floats, below: float, row: int) -> float:
    return float(have[row, 1] + below - want[row, 1])


def _reachable(theta: Floats, splitters: Floats) -> Floats:
    """Inner phases that come nearest to the splitting |sin θ/2| with faulty splitters."""
    plus, minus = splitters[:, 0] + splitters[:, 1], splitters[:, 0] - splitters[:, 1]
    top, floor = np.cos(minus) ** 2, np.sin(plus) ** 2
    share = np.clip((np.sin(theta / 2.0) ** 2 - floor) / (top - floor), 0.0, 1.0)
    out: Floats = 2.0 * np.arcsin(np.sqrt(share))
    return out
