"""Networks that learn by their own physics: every gradient they claim, against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hyle_compiler.adapt.hamiltonian import OscillatorLattice
from hyle_compiler.adapt.photonic import PhotonicMesh
from hyle_compiler.adapt.resistor_network import ResistorNetwork, cost

Array = np.ndarray[Any, Any]


def numerical(parameters: Array, loss: Callable[[], float], step: float = 1e-6) -> Array:
    found = np.zeros_like(parameters)
    for index in np.ndindex(parameters.shape):
        kept = parameters[index]
        parameters[index] = kept + step
        above = loss()
        parameters[index] = kept - step
        found[index] = (above - loss()) / (2.0 * step)
        parameters[index] = kept
    return found


def cosine(a: Array, b: Array) -> float:
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture
def network() -> ResistorNetwork:
    net = ResistorNetwork([5, 6, 3], gain=4.0, g_min=1e-3, tolerance=1e-12)
    for g in net.conductances:
        np.maximum(g, 0.01, out=g)
    return net


def test_equilibrium_propagation_becomes_the_gradient_as_the_nudge_goes_to_zero(
    network: ResistorNetwork, rng: np.random.Generator
) -> None:
    x, t = rng.uniform(-1, 1, (4, 5)), np.eye(3)[[0, 1, 2, 0]]
    exact = np.concatenate(
        [numerical(g, lambda: float(cost(network.settle(x).outputs, t).mean())).ravel() for g in network.conductances]
    )
    errors = []
    for beta in (0.1, 0.01, 0.001):
        claimed = np.concatenate([d.ravel() for d in network.equilibrium_gradient(x, t, beta)[0]])
        errors.append(float(np.linalg.norm(claimed - exact) / np.linalg.norm(exact)))
    # Symmetric nudging is wrong by order β²; central differences of 1e-6 are good to about 1e-5 here.
    assert errors[2] < 1e-4
    assert errors[0] > errors[1] > errors[2]


def test_single_precision_gives_the_same_gradient(rng: np.random.Generator) -> None:
    x, t = rng.uniform(-1, 1, (16, 20)), np.eye(3)[rng.integers(0, 3, 16)]
    found = []
    for kind in (np.float64, np.float32):
        net = ResistorNetwork([20, 16, 3], seed=1, gain=20.0, g_min=1e-3, tolerance=1e-6, dtype=kind)
        gradients, state = net.equilibrium_gradient(x, t, 0.5)
        assert state.outputs.dtype == kind
        found.append(np.concatenate([g.ravel() for g in gradients]))
    # Voltages move by about the nudge's share, 0.1 of their size; rounding is 2^-24 and settling 1e-6 of the inputs'.
    assert np.linalg.norm(found[1] - found[0]) < 1e-3 * np.linalg.norm(found[0])


def test_coupled_learning_points_downhill(network: ResistorNetwork, rng: np.random.Generator) -> None:
    x, t = rng.uniform(-1, 1, (4, 5)), np.eye(3)[[0, 1, 2, 0]]
    exact = [d.ravel() for d in network.equilibrium_gradient(x, t, 1e-3)[0]]
    claimed = [d.ravel() for d in network.coupled_gradient(x, t, 1e-3)[0]]
    assert cosine(np.concatenate(exact), np.concatenate(claimed)) > 0.0


@pytest.mark.parametrize("rule", ["equilibrium_gradient", "coupled_gradient"])
def test_a_resistor_network_learns_and_keeps_its_conductances_in_range(rule: str, rng: np.random.Generator) -> None:
    net = ResistorNetwork([4, 12, 2], gain=8.0, g_min=1e-3, tolerance=1e-6)
    x = rng.uniform(-1, 1, (64, 4))
    t = np.eye(2)[(x[:, 0] * x[:, 1] > 0).astype(int)]
    before = cost(net.settle(x).outputs, t).mean()
    for _ in range(60):
        gradients, _ = getattr(net, rule)(x, t, 0.1)
        net.descend(gradients, (0.02, 0.02))
    assert cost(net.settle(x).outputs, t).mean() < 0.8 * before
    assert all(g.min() >= net.g_min and g.max() <= net.g_max for g in net.conductances)


def test_a_mesh_conserves_power_whatever_its_phases(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 6)) + 1j * rng.standard_normal((3, 6))
    y, _ = PhotonicMesh(6, 3, 0.1).forward(x)
    # Rounding: 30 couplers of unit norm, 1e-16 each.
    assert np.allclose(np.sum(np.abs(y) ** 2, 1), np.sum(np.abs(x) ** 2, 1), rtol=1e-13)


def test_powers_at_the_phase_shifters_give_the_gradient_of_a_mesh_with_unknown_errors(
    rng: np.random.Generator,
) -> None:
    mesh = PhotonicMesh(4, 0, phase_error_rad=0.2)
    x = rng.standard_normal((3, 4)) + 1j * rng.standard_normal((3, 4))
    t = rng.uniform(0, 1, (3, 4))
    y, _ = mesh.forward(x)
    claimed = mesh.adjoint_gradient(x, 2.0 * (np.abs(y) ** 2 - t) * y)
    exact = numerical(mesh.phases, lambda: float(np.sum((np.abs(mesh.forward(x)[0]) ** 2 - t) ** 2)))
    assert cosine(claimed, exact) > 1.0 - 1e-8
    assert np.linalg.norm(claimed) == pytest.approx(np.linalg.norm(exact), rel=1e-6)


def test_an_echo_gives_the_gradient_of_a_lattice(rng: np.random.Generator) -> None:
    lattice = OscillatorLattice(5)
    q, p, t = rng.standard_normal((3, 4, 5))

    def loss() -> float:
        return float(0.5 * np.sum((lattice.run(q, p)[0] - t) ** 2))

    claimed = np.concatenate(lattice.echo_gradient(q, p, lambda last: last - t, 1e-3))
    exact = np.concatenate([numerical(lattice.springs, loss), numerical(lattice.couplings, loss)])
    # The estimate is wrong by order nudge², 1e-6, times a curvature of order 1.
    assert np.linalg.norm(claimed - exact) / np.linalg.norm(exact) < 1e-5


def test_an_echo_without_a_shift_returns_to_where_it_began(rng: np.random.Generator) -> None:
    lattice = OscillatorLattice(6, steps=200)
    q, p = rng.standard_normal((2, 3, 6))
    last_q, last_p, _, _ = lattice.run(q, p)
    back_q, back_p, _, _ = lattice.run(last_q, -last_p)
    # Leapfrog is reversible; rounding grows over 200 steps of a weakly chaotic lattice.
    assert np.allclose(back_q, q, atol=1e-8)
    assert np.allclose(-back_p, p, atol=1e-8)
