"""Resistive memory, flash and SRAM: every curve at the points that its source states, and devices that follow it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hyle_substrates import draws
from hyle_substrates.physics.cmo import CmoConstants, decay, program_std_us, read_std_us
from hyle_substrates.physics.flash import FlashConstants, retained, saturating
from hyle_substrates.physics.rram import RramConstants, relaxed_std
from hyle_substrates.physics.slm import SlmConstants
from hyle_substrates.physics.sram import thermal_std_v
from hyle_substrates.profile import load_profile
from hyle_substrates.substrate import decode_physics, load_substrate

DAY = 86400.0
N = 40_000
MANY = 5 * (1 / (2 * N)) ** 0.5


def devices(name: str, target: float, age_s: float, count: int = N) -> np.ndarray:
    profile = load_profile(name)
    substrate = load_substrate(profile.substrate)

    def draw(stage: str, shape: tuple[int, ...]) -> np.ndarray:
        return draws.normal(1, name, stage, shape=shape)

    matter = substrate.program(profile, np.full((count, 1), target), draw)
    aged: np.ndarray = substrate.age(profile, matter, age_s, draw)
    return aged[:, 0]


def polynomial(g: float, terms: tuple[float, ...]) -> float:
    return sum(c * g**i for i, c in enumerate(terms))


NEURRAM = {
    1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
    DAY: (0.701, 22.086, -50.773, 47.095, -16.458),
    2 * DAY: (0.782, 20.274, -43.507, 37.062, -11.934),
}


@pytest.mark.parametrize("age_s", NEURRAM)
@pytest.mark.parametrize("g", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_neurram_relaxes_as_its_polynomials_say(age_s: float, g: float) -> None:
    constants = decode_physics(load_profile("rram-neurram"), RramConstants)
    found = float(relaxed_std(np.array(g), age_s, constants)) * 40.0
    assert found == pytest.approx(max(polynomial(g, NEURRAM[age_s]), 0.0), rel=1e-9)


def test_neurram_is_held_outside_of_what_was_measured_and_grows_between() -> None:
    constants = decode_physics(load_profile("rram-neurram"), RramConstants)
    at = np.array(0.2)
    young, hour, day, old = (float(relaxed_std(at, t, constants)) for t in (0.0, 3600.0, DAY, 400 * DAY))
    assert young == pytest.approx(polynomial(0.2, NEURRAM[1.0]) / 40.0)
    assert young < hour < day
    assert old == pytest.approx(polynomial(0.2, NEURRAM[2 * DAY]) / 40.0)


@pytest.mark.parametrize("age_s", NEURRAM)
def test_neurrams_devices_spread_as_the_curve_says(age_s: float) -> None:
    """The pair's other device is aimed at zero and clipped there: half of its variance's normal part, 0.3408 σ₀²."""
    found = devices("rram-neurram", 0.5, age_s) * 40.0
    active, idle = polynomial(0.5, NEURRAM[age_s]), polynomial(0.0, NEURRAM[age_s])
    expected = math.sqrt(active**2 + (0.5 - 0.5 / math.pi) * idle**2)
    assert found.std() == pytest.approx(expected, rel=MANY + 0.01)


def test_cmo_devices_follow_their_cited_statistics() -> None:
    constants = decode_physics(load_profile("rram-cmo"), CmoConstants)
    assert program_std_us(50.0, constants) == pytest.approx(0.0112185391 + 0.01129027418 * 50.0)
    mean, std = decay(DAY, constants)
    assert mean == pytest.approx(-0.08900206 * math.log(DAY))
    assert std == pytest.approx(0.04201137 * math.log(DAY) + 0.41183342)
    assert decay(0.1, constants) == (0.0, 0.41183342)
    grown = math.sqrt(math.log((DAY + 1e-6) / 2e-6))
    assert float(read_std_us(np.array(50.0), DAY, constants)) == pytest.approx(0.0277316483 * math.log10(50.0) * grown)


def test_cmo_devices_spread_by_all_three_causes() -> None:
    """A target of 0 is 48.595 µS; write error, decay and read noise add in power."""
    constants = decode_physics(load_profile("rram-cmo"), CmoConstants)
    half = (88.19 - 9.0) / 2
    found = devices("rram-cmo", 0.0, DAY) * half
    mean, std = decay(DAY, constants)
    read = float(read_std_us(np.array(48.595), DAY, constants))
    expected = math.sqrt(float(program_std_us(48.595, constants)) ** 2 + std**2 + read**2)
    assert found.std() == pytest.approx(expected, rel=MANY)
    assert found.mean() == pytest.approx(mean, abs=5 * expected / N**0.5)


def test_cmo_devices_end_at_the_range_once_all_causes_are_in() -> None:
    """A target of -1 after a day: the mean of a normal distribution, everything below 9 µS counted as that.

    The range ends what is read, as in the source, not the decay and the noise one by one: that would add a tenth of
    the spread. Read noise hardly changes over the spread: log10 of 9 ± 1 µS by 5 %, of a fifth of the variance.
    """
    constants = decode_physics(load_profile("rram-cmo"), CmoConstants)
    mean, std = decay(DAY, constants)
    wrote, read = float(program_std_us(9.0, constants)), float(read_std_us(np.array(9.0), DAY, constants))
    spread = math.sqrt(wrote**2 + std**2 + read**2)
    z = mean / spread
    above = 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))
    expected = mean * above + spread * math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi)
    found = (devices("rram-cmo", -1.0, DAY) + 1.0) * (88.19 - 9.0) / 2
    assert found.min() == 0.0
    # A censored variable spreads less than the whole: five standard errors of that.
    assert found.mean() == pytest.approx(expected, abs=5 * spread / N**0.5)


@pytest.mark.parametrize(
    ("days", "a", "b"), [(0, 19.88665, 176.3115), (1, 25.59102, 186.85544), (5, 34.57909, 207.34309)]
)
def test_sonos_spreads_as_its_saturating_curves_say(days: int, a: float, b: float) -> None:
    constants = decode_physics(load_profile("flash-sonos"), FlashConstants)
    mean, std = retained(np.array(800.0), days * DAY, constants)
    assert float(std) == pytest.approx(a * (1 - math.exp(-float(mean) / b)), rel=1e-9)
    assert float(saturating(np.array(0.0), a, b)) == 0.0


def test_sonos_means_drift_by_the_fitted_polynomial() -> None:
    """One day, 100 nA: the eleven terms summed by hand."""
    constants = decode_physics(load_profile("flash-sonos"), FlashConstants)
    assert float(retained(np.array(100.0), 0.0, constants)[0]) == 100.0
    shift = float(retained(np.array(100.0), DAY, constants)[0]) - 100.0
    terms = (1.72684e-1, 5.72552e-2, -6.85715e-4, 3.50271e-6, -9.37682e-9, 1.40575e-11, -1.19803e-14)
    rest = (5.41293e-18, -8.85448e-22, -1.66869e-25, 5.95180e-29)
    assert shift == pytest.approx(polynomial(100.0, terms + rest), rel=1e-9)
    between = float(retained(np.array(100.0), DAY / 2, constants)[0]) - 100.0
    assert between == pytest.approx(shift / 2, rel=1e-9)
    assert retained(np.array(100.0), 50 * DAY, constants) == retained(np.array(100.0), 5 * DAY, constants)


def test_sonos_cells_spread_by_variation_and_read_noise() -> None:
    found = devices("flash-sonos", 0.5, DAY) * 1600.0
    constants = decode_physics(load_profile("flash-sonos"), FlashConstants)
    mean, std = (float(v) for v in retained(np.array(800.0), DAY, constants))
    read = 12.58037 * (1 - math.exp(-mean / 215.36557))
    off = retained(np.array(0.0), DAY, constants)[0]
    assert found.mean() == pytest.approx(mean - float(off), abs=1.0)
    assert found.std() == pytest.approx(math.hypot(std, read), rel=MANY + 0.01)


def test_sram_holds_its_words_and_does_not_age() -> None:
    young, old = devices("sram-mc2ram", 0.5, 1.0, 10), devices("sram-mc2ram", 0.5, 1e9, 10)
    assert np.array_equal(young, old)
    assert np.array_equal(young, np.full(10, 0.5))


def test_thermal_noise_of_a_femtofarad_is_two_millivolts() -> None:
    """sqrt(kT/C) at 300 K: 2.035 mV for 1 fF, the textbook's figure."""
    assert thermal_std_v(1e-15) == pytest.approx(2.035e-3, rel=1e-3)


def test_a_modulators_pixels_leak_and_spread() -> None:
    constants = decode_physics(load_profile("slm-wang2022"), SlmConstants)
    found = devices("slm-wang2022", 1.0, 0.0)
    dark = 1 / constants.contrast
    assert found.mean() == pytest.approx(1.0 - dark, abs=5 * 0.01 / N**0.5)
    assert found.std() == pytest.approx(constants.pixel_std * math.hypot(1.0, dark), rel=MANY)
