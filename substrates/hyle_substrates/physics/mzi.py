"""Coherent optics: a matrix is two meshes of interferometers around a row of attenuators.

Sources: Shen et al. 2017, Nat. Photon. 11, 441 (singular value decomposition on two meshes); those of `mesh`. Faults:
phases are set in steps, miss them, drift, and heat their neighbours; splitters are not 50:50; interferometers lose
light. Self-configuration measures splitters and crosstalk and corrects them by the phases in reach, for which heaters
go beyond a turn where they must. Validity: one wavelength, coherent detection of the real part, a sub-mesh of as many
ports as the tile needs, losses that all paths share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from hyle_substrates.physics.mesh import Faults, Mesh, clements, compose, configure, layers, reck
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = ["SUBSTRATE", "Mzi", "MziConstants", "heated", "quantised", "settings"]

Spread = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
TURN = 2.0 * np.pi
ROUNDS = 30


class MziConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of a mesh.

    `phase_bits`: steps of a turn. `phase_std_rad`: how far a phase misses its setting. `drift_std_rad_per_day`: change
    of a phase in a day, its square growing with time. `splitter_std_rad`: spread of a splitter's angle around 45°.
    `loss_db`: of one interferometer. `crosstalk`: share of a heater's phase that its neighbours in the layer and the
    other heater of its own interferometer see. `self_configuration`: whether splitters and crosstalk are measured and
    corrected.
    """

    mesh: Literal["clements", "reck"]
    phase_bits: Annotated[int, msgspec.Meta(ge=1, le=24)]
    phase_std_rad: Spread
    drift_std_rad_per_day: Spread
    splitter_std_rad: Spread
    loss_db: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)]
    crosstalk: Annotated[float, msgspec.Meta(ge=0.0, le=0.1)]
    self_configuration: bool


@cache
def _order(kind: str, ports: int) -> np.ndarray[Any, Any]:
    """Upper waveguide of every interferometer, in the order that light meets them."""
    identity = np.eye(ports, dtype=np.complex128)
    return (clements if kind == "clements" else reck)(identity).mode


@cache
def _neighbours(kind: str, ports: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pairs of interferometers that lie beside each other in a layer."""
    mode = _order(kind, ports)
    pairs = [
        (a, b)
        for indices in layers(mode, ports)
        for a in indices.tolist()
        for b in indices.tolist()
        if abs(int(mode[a]) - int(mode[b])) == 2
    ]
    first, second = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(first, dtype=np.int64), np.array(second, dtype=np.int64)


def heated(theta: Float64s, phi: Float64s, kind: str, ports: int, crosstalk: float) -> tuple[Float64s, Float64s]:
    """Phases that heaters set to `theta` and `phi` (radians, from 0) give, their neighbours' heat included."""
    first, second = _neighbours(kind, ports)

    def beside(own: Float64s, other: Float64s) -> Float64s:
        near = np.zeros_like(own)
        np.add.at(near, first, own[second])
        out: Float64s = own + crosstalk * (near + other)
        return out

    return beside(theta, phi), beside(phi, theta)


def quantised(phase: Float64s, bits: int) -> Float64s:
    """Nearest settings of phases, radians from 0 to a turn, in 2^bits steps of a turn."""
    step = TURN / 2.0**bits
    out: Float64s = np.mod(np.round(np.mod(phase, TURN) / step), 2.0**bits) * step
    return out


def _making_up(wanted: Float64s, warmed: Callable[[Float64s], Float64s]) -> Float64s:
    """Settings that heat phases to what is wanted (radians, 0 to a turn) or a turn or two more.

    No heater cools: one that its neighbours warm beyond the wanted phase goes on to the same phase of the next turn.
    """
    asked, aim = wanted, wanted
    while True:
        for _ in range(ROUNDS):
            asked = asked + aim - warmed(asked)
        cold = asked < 0.0
        if not cold.any():
            return asked
        asked, aim = np.where(cold, asked + TURN, asked), np.where(cold, aim + TURN, aim)


def settings(wanted: Mesh, constants: MziConstants, faults: Faults) -> Mesh:
    """What the heaters are set to: corrected where the chip configures itself, and in steps."""
    ports, bits = len(wanted.screen), constants.phase_bits
    if not constants.self_configuration:
        return Mesh(
            wanted.mode, quantised(wanted.theta, bits), quantised(wanted.phi, bits), quantised(wanted.screen, bits)
        )
    reach = configure(wanted, faults)
    count, step = len(wanted.mode), TURN / 2.0**bits

    def warmed(asked: Float64s) -> Float64s:
        return np.concatenate(heated(asked[:count], asked[count:], constants.mesh, ports, constants.crosstalk))

    asked = _making_up(np.mod(np.concatenate([reach.theta, reach.phi]), TURN), warmed)
    theta, phi = np.split(np.round(asked / step) * step, 2)
    return Mesh(wanted.mode, theta, phi, quantised(reach.screen, bits))


class Mzi:
    """Two meshes and the attenuators between them; the largest singular value is the host's scale."""

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the constants are complete and in range."""
        decode_physics(profile, MziConstants)

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Decompose, configure and set; arguments as in `Substrate.program`."""
        constants = decode_physics(profile, MziConstants)
        rows, cols = targets.shape
        ports = max(rows, cols, 2)
        matrix = np.zeros((ports, ports))
        matrix[:cols, :rows] = targets.T
        left, values, right = _decomposed(matrix)
        top = max(float(values[0]), 1e-12)
        matter = {"shape": np.array([rows, cols, top]), "attenuators": values / top}
        for name, unitary in (("left", left), ("right", right)):
            matter |= _write(name, unitary, constants, draw)
        return matter

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Let phases drift and send light through; arguments as in `Substrate.age`."""
        constants = decode_physics(profile, MziConstants)
        drift = constants.drift_std_rad_per_day * (age_s / 86400.0) ** 0.5
        left = _through("left", matter, constants, drift)
        right = _through("right", matter, constants, drift)
        rows, cols, top = int(matter["shape"][0]), int(matter["shape"][1]), float(matter["shape"][2])
        matrix = (left * matter["attenuators"]) @ right
        out: Float64s = np.ascontiguousarray(matrix.real[:cols, :rows].T * top)
        return out


def _decomposed(matrix: Float64s) -> tuple[Float64s, Float64s, Float64s]:
    """Singular value decomposition that is the same on every machine, up to rounding.

    A pair of singular vectors may change its sign, and those of values of zero may be any basis: which ones it is
    depends on the processor that LAPACK runs on, and other vectors are other phases of the meshes.
    """
    left, values, right = np.linalg.svd(matrix)
    rank = int(np.sum(values > values[0] * len(values) * np.finfo(np.float64).eps))
    largest = np.argmax(np.abs(left[:, :rank]), axis=0)
    signs = np.where(left[largest, np.arange(rank)] < 0.0, -1.0, 1.0)
    left[:, :rank] *= signs
    right[:rank] *= signs[:, None]
    if rank < len(values):
        left[:, rank:] = np.linalg.qr(left[:, :rank], mode="complete")[0][:, rank:]
        right[rank:] = np.linalg.qr(right[:rank].T, mode="complete")[0][:, rank:].T
    return left, values, right


def _write(name: str, unitary: Any, constants: MziConstants, draw: Draw) -> Matter:
    wanted = (clements if constants.mesh == "clements" else reck)(unitary.astype(np.complex128))
    count, ports = len(wanted.mode), len(wanted.screen)
    splitters = constants.splitter_std_rad * draw(f"{name}/splitters", (count, 2))
    found = settings(wanted, constants, Faults(splitters))
    theta, phi = heated(found.theta, found.phi, constants.mesh, ports, constants.crosstalk)
    phases = np.concatenate([theta, phi, found.screen])
    missed = phases + constants.phase_std_rad * draw(f"{name}/phases", phases.shape)
    return {
        f"{name}/splitters": splitters,
        f"{name}/phases": np.mod(missed, TURN),
        f"{name}/drift": draw(f"{name}/drift", phases.shape),
    }


def _through(name: str, matter: Matter, constants: MziConstants, drift: float) -> Any:
    ports = len(matter["attenuators"])
    mode = _order(constants.mesh, ports)
    theta, phi, screen = np.split(
        matter[f"{name}/phases"] + drift * matter[f"{name}/drift"], [len(mode), 2 * len(mode)]
    )
    known = 10.0 ** (constants.loss_db * len(layers(mode, ports)) / 20.0)
    return known * compose(Mesh(mode, theta, phi, screen), Faults(matter[f"{name}/splitters"], constants.loss_db))


SUBSTRATE = Mzi()
