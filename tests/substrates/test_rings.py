"""Microring weight banks: Lorentzian weights, the inversion of crosstalk, and what temperature does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hyle_substrates import draws
from hyle_substrates.physics.mrr import bank_weights, lorentzian, thermal_matrix, tune
from hyle_substrates.profile import load_profile
from hyle_substrates.substrate import load_substrate
from hypothesis import given, settings
from hypothesis import strategies as st


def test_a_single_ring_is_a_lorentzian_from_one_to_minus_one() -> None:
    """On resonance 1, at one half-width 0, far away -1; w = 2/(1 + x²) - 1."""
    x = np.array([[0.0, 1.0, 3.0, 1e6]])
    assert np.allclose(bank_weights(x, 10.0), 2.0 / (1.0 + x**2) - 1.0, atol=1e-11)
    assert lorentzian(np.array(1.0)) == 0.5


def test_light_that_passes_ring_after_ring_gives_the_same_weights() -> None:
    """Each ring drops its Lorentzian share of what the ones before it left; detectors sum dropped minus passed."""
    spacing, detuning = 4.0, np.random.default_rng(6).uniform(0.0, 2.0, 9)
    weights = []
    for channel in range(9):
        through, dropped = 1.0, 0.0
        for ring in range(9):
            share = 1.0 / (1.0 + ((channel - ring) * spacing - detuning[ring]) ** 2)
            dropped, through = dropped + through * share, through * (1.0 - share)
        weights.append(dropped - through)
    assert np.allclose(bank_weights(detuning[:, None], spacing)[:, 0], weights, atol=1e-13)


@given(st.integers(1, 24), st.floats(10.0, 60.0), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_inversion_recovers_the_programmed_weights(rings: int, spacing: float, seed: int) -> None:
    """Up to ±0.8: below, neighbours ten half-widths away already take more light than the weight leaves."""
    wanted = np.random.default_rng(seed).uniform(-0.8, 0.8, (rings, 3))
    detuning = tune(wanted, spacing)
    assert np.abs(bank_weights(detuning, spacing) - wanted).max() < 1e-9
    assert detuning.min() >= 0.0
    assert detuning.max() <= spacing / 2


def test_without_inversion_crosstalk_shows() -> None:
    wanted = np.random.default_rng(0).uniform(-0.8, 0.8, (16, 8))
    alone = np.sqrt(2.0 / (wanted + 1.0) - 1.0)
    assert np.abs(bank_weights(alone, 1000 / 60) - wanted).max() > 0.005


def test_heat_spreads_by_distance_and_is_undone_by_the_inverse() -> None:
    matrix = thermal_matrix(4, 0.1)
    assert matrix[0].tolist() == pytest.approx([1.0, 0.1, 0.01, 0.001])
    shift = np.array([1.0, 2.0, 0.5, 0.0])
    assert np.allclose(matrix @ np.linalg.solve(matrix, shift), shift)
    assert np.array_equal(thermal_matrix(3, 0.0), np.eye(3))


def bank(**physics: float) -> np.ndarray:
    profile = load_profile("mrr-16")
    profile = msgspec.structs.replace(profile, physics=profile.physics | physics)
    substrate = load_substrate("mrr")
    targets = np.random.default_rng(3).uniform(-0.9, 0.9, (16, 200))

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return draws.normal(0, name, shape=shape)

    out: np.ndarray = substrate.age(profile, substrate.program(profile, targets, draw), 0.0, draw) - targets
    return out


def test_a_bank_without_faults_holds_its_weights() -> None:
    assert np.abs(bank(residual_k=0.0, weight_bits=60.0)).max() < 1e-9


def test_weights_miss_by_the_stated_accuracy() -> None:
    """8.5 bits over a range of 2: 0.0055 of a weight, 3,200 of them: within 7 % (five standard errors)."""
    assert bank(residual_k=0.0).std() * 0.9 == pytest.approx(2.0 / 2.0**8.5, rel=0.07)


def test_untracked_temperature_ruins_a_bank() -> None:
    """1 K is 75 pm, more than a half-width of 60 pm."""
    assert bank(residual_k=1.0).std() > 20 * bank(residual_k=0.0).std()
