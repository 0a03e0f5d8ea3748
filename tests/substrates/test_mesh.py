"""Meshes of interferometers: exact decompositions, and faults as a direct product of 2x2 matrices gives them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hyle_substrates import draws
from hyle_substrates.physics.mesh import Faults, Mesh, clements, compose, configure, interferometer, layers, reck
from hyle_substrates.physics.mzi import MziConstants, heated, quantised, settings
from hyle_substrates.profile import load_profile
from hyle_substrates.substrate import decode_physics, load_substrate
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

BOTH = [reck, clements]


def random_unitary(ports: int, seed: int) -> np.ndarray:
    """Haar-random: Mezzadri 2007, Notices AMS 54, 592."""
    random = np.random.default_rng(seed)
    q, r = np.linalg.qr(random.normal(size=(ports, ports)) + 1j * random.normal(size=(ports, ports)))
    out: np.ndarray = q * (np.diag(r) / np.abs(np.diag(r)))
    return out


@pytest.mark.parametrize("decompose", BOTH)
@pytest.mark.parametrize("ports", [1, 2, 3, 5, 8, 16, 33, 64])
def test_random_unitaries_are_rebuilt(decompose, ports: int) -> None:  # type: ignore[no-untyped-def]
    unitary = random_unitary(ports, ports)
    mesh = decompose(unitary)
    assert np.abs(compose(mesh) - unitary).max() < 1e-10
    assert len(mesh.mode) == ports * (ports - 1) // 2


@pytest.mark.parametrize("matrix", [np.eye(5), np.eye(5)[::-1], np.diag([1.0, -1.0, 1.0, -1.0, 1.0]), -np.eye(4)])
@pytest.mark.parametrize("decompose", BOTH)
def test_matrices_full_of_zeros_are_rebuilt(decompose, matrix: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    assert np.abs(compose(decompose(matrix.astype(complex))) - matrix).max() < 1e-10


def test_depths_are_those_of_the_papers() -> None:
    unitary = random_unitary(16, 1)
    assert len(layers(clements(unitary).mode, 16)) == 16
    assert len(layers(reck(unitary).mode, 16)) == 2 * 16 - 3


def test_a_perfect_interferometer_is_the_textbooks() -> None:
    theta, phi = 0.7, 1.9
    s, c = np.sin(theta / 2), np.cos(theta / 2)
    book = 1j * np.exp(0.5j * theta) * np.array([[np.exp(1j * phi) * s, c], [np.exp(1j * phi) * c, -s]])
    assert np.allclose(interferometer(np.float64(theta), np.float64(phi), np.zeros(2)), book, atol=1e-14)


def direct_product(mesh: Mesh, faults: Faults) -> np.ndarray:
    """One full matrix for every element: splitters as exp(i·angle·X), phases as diagonals, losses as factors."""
    ports = len(mesh.screen)
    total = np.eye(ports, dtype=complex)
    x = np.array([[0, 1], [1, 0]])
    for k, upper in enumerate(mesh.mode):
        cell = np.eye(2, dtype=complex)
        for phase, off in ((mesh.phi[k], faults.splitters[k, 0]), (mesh.theta[k], faults.splitters[k, 1])):
            angle = np.pi / 4 + off
            splitter = np.cos(angle) * np.eye(2) + 1j * np.sin(angle) * x
            cell = splitter @ np.diag([np.exp(1j * phase), 1.0]) @ cell
        whole = np.eye(ports, dtype=complex)
        whole[upper : upper + 2, upper : upper + 2] = cell * 10 ** (-faults.loss_db / 20)
        total = whole @ total
    return np.diag(np.exp(1j * mesh.screen)) @ total


@given(st.integers(2, 9), st.integers(0, 999), st.sampled_from(BOTH))
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_faulty_mesh_is_the_direct_product_of_its_noisy_parts(ports: int, seed: int, decompose) -> None:  # type: ignore[no-untyped-def]
    mesh = decompose(random_unitary(ports, seed))
    random = np.random.default_rng(seed)
    noisy = Mesh(
        mesh.mode,
        mesh.theta + random.normal(0, 0.1, len(mesh.mode)),
        mesh.phi + random.normal(0, 0.1, len(mesh.mode)),
        mesh.screen + random.normal(0, 0.1, ports),
    )
    faults = Faults(random.normal(0, 0.1, (len(mesh.mode), 2)), loss_db=0.3)
    assert np.abs(compose(noisy, faults) - direct_product(noisy, faults)).max() < 1e-12


@given(st.integers(2, 5), st.integers(0, 999), st.sampled_from(BOTH))
@hypothesis_settings(max_examples=30, deadline=None)
def test_configuration_never_ends_worse_and_is_exact_where_phases_reach(ports: int, seed: int, decompose) -> None:  # type: ignore[no-untyped-def]
    unitary = random_unitary(ports, seed)
    mesh = decompose(unitary)
    faults = Faults(np.random.default_rng(seed).normal(0, 0.03, (len(mesh.mode), 2)))
    share = np.sin(mesh.theta / 2) ** 2
    floor = np.sin(faults.splitters.sum(1)) ** 2
    top = np.cos(faults.splitters[:, 0] - faults.splitters[:, 1]) ** 2
    fixed = np.abs(compose(configure(mesh, faults), faults) - unitary).max()
    if np.all((share >= floor) & (share <= top)):
        assert fixed < 1e-10
    else:
        raw = np.linalg.norm(compose(mesh, faults) - unitary)
        assert np.linalg.norm(compose(configure(mesh, faults), faults) - unitary) < raw + 0.03 * ports


def test_configuration_of_64_ports_removes_most_of_the_error() -> None:
    unitary = random_unitary(64, 64)
    mesh = clements(unitary)
    faults = Faults(np.random.default_rng(0).normal(0, 0.02, (len(mesh.mode), 2)))
    raw = np.linalg.norm(compose(mesh, faults) - unitary)
    assert np.linalg.norm(compose(configure(mesh, faults), faults) - unitary) < raw / 3


def test_phases_are_set_in_steps() -> None:
    phases = np.linspace(-10, 10, 1001)
    found = quantised(phases, 8)
    assert found.min() >= 0.0
    assert found.max() < 2 * np.pi
    assert np.abs(np.exp(1j * found) - np.exp(1j * phases)).max() <= np.pi / 256 + 1e-12


@pytest.mark.parametrize("crosstalk", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("decompose", BOTH)
def test_settings_make_up_for_neighbours_heat(decompose, crosstalk: float) -> None:  # type: ignore[no-untyped-def]
    """24 bits leave 2π/2^25 of a phase, and 1.3 times that with the heat of three neighbours.

    Phases just above 0, which neighbours' heat takes past it, are among those of a real matrix's mesh.
    """
    kind = "clements" if decompose is clements else "reck"
    constants = msgspec.structs.replace(
        decode_physics(load_profile("mzi-64"), MziConstants),
        mesh=kind,
        phase_bits=24,
        crosstalk=crosstalk,
        splitter_std_rad=0.0,
    )
    step = 2 * np.pi / 2**24
    for seed in range(5):
        mesh = decompose(np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 16)))[0].astype(complex))
        found = settings(mesh, constants, Faults(np.zeros((len(mesh.mode), 2))))
        assert min(found.theta.min(), found.phi.min()) >= 0.0
        theta, phi = heated(found.theta, found.phi, kind, 16, crosstalk)
        off = np.abs(compose(Mesh(mesh.mode, theta, phi, found.screen)) - compose(mesh)).max()
        assert off < len(mesh.mode) * 2 * 1.3 * step / 2
        plain = settings(mesh, msgspec.structs.replace(constants, self_configuration=False), Faults(np.zeros((120, 2))))
        theta, phi = heated(plain.theta, plain.phi, kind, 16, crosstalk)
        assert np.abs(compose(Mesh(mesh.mode, theta, phi, plain.screen)) - compose(mesh)).max() > crosstalk


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (16, 16)])
@pytest.mark.parametrize("kind", ["clements", "reck"])
def test_a_chip_without_faults_holds_any_matrix(kind: str, shape: tuple[int, int]) -> None:
    """24-bit phases: about 100 of them, each within 2π/2^25, times a largest singular value below 16."""
    profile = load_profile("mzi-64")
    faultless = {"phase_bits": 24, "phase_std_rad": 0.0, "splitter_std_rad": 0.0, "loss_db": 0.5, "crosstalk": 0.0}
    physics = profile.physics | faultless | {"mesh": kind, "drift_std_rad_per_day": 0.0}
    profile = msgspec.structs.replace(profile, physics=physics | {"loss_db": 0.0})
    substrate = load_substrate("mzi")
    targets = np.random.default_rng(2).uniform(-1, 1, shape)

    def draw(name: str, size: tuple[int, ...]) -> np.ndarray:
        return draws.normal(0, name, shape=size)

    found = substrate.age(profile, substrate.program(profile, targets, draw), 0.0, draw)
    assert np.abs(found - targets).max() < 1e-4


def test_more_faults_make_more_error() -> None:
    profile = load_profile("mzi-64")
    substrate = load_substrate("mzi")
    targets = np.random.default_rng(2).uniform(-1, 1, (16, 16))

    def error(**physics: float) -> float:
        changed = msgspec.structs.replace(profile, physics=profile.physics | physics)

        def draw(name: str, size: tuple[int, ...]) -> np.ndarray:
            return draws.normal(0, name, shape=size)

        matter = substrate.program(changed, targets, draw)
        return float(np.linalg.norm(substrate.age(changed, matter, 86400.0, draw) - targets))

    base = error()
    assert error(phase_std_rad=0.02) > 1.5 * base
    assert error(drift_std_rad_per_day=0.05) > 1.5 * base
    assert error(phase_bits=5) > 1.5 * base
    assert base > 1.5 * error(loss_db=0.0)
    assert error(self_configuration=False, loss_db=0.0) > 1.5 * error(loss_db=0.0)
