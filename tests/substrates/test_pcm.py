"""Phase-change memory: its laws at the points that their sources state, and the error of whole matrix products."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hyle_substrates import io
from hyle_substrates.physics import pcm
from hyle_substrates.physics.pcm import PcmConstants
from hyle_substrates.profile import Profile, load_profile
from hyle_substrates.substrate import decode_physics
from hyle_substrates.twin import TwinDriver

AGES = (25.0, 3600.0, 86400.0, 31536000.0)
SIZE = 512


def constants(name: str) -> PcmConstants:
    return decode_physics(load_profile(name), PcmConstants)


@pytest.mark.parametrize(
    ("g", "std_us"), [(0.0, 0.26348), (0.5, 0.26348 + 1.9650 / 2 - 1.1731 / 4), (1.0, 0.26348 + 1.9650 - 1.1731)]
)
def test_generic_write_errors_follow_the_published_polynomial(g: float, std_us: float) -> None:
    """Measured from deviates of ±1 above zero conductance."""
    found = pcm.programmed(np.array([g + 1.0]), np.array([1.0]), constants("pcm-generic"))
    assert found.shape == (1,)
    up = pcm.programmed(np.array([g]), np.array([1.0]), constants("pcm-generic"))[0] - g
    assert up * 25.0 == pytest.approx(std_us, rel=1e-12)
    assert pcm.programmed(np.array([0.0]), np.array([-9.0]), constants("pcm-generic"))[0] == 0.0


@pytest.mark.parametrize(
    ("name", "g", "mean", "std"),
    [
        ("pcm-generic", 1.0, 0.049, 0.008),
        ("pcm-generic", 0.01, -0.0155 * math.log(0.01) + 0.0244, 0.045),
        ("pcm-generic", 1e-9, 0.1, 0.045),
        ("pcm-hermes", 0.05, -0.0387 * math.log(0.05) - 0.0182, -0.0117 * math.log(0.05) - 0.0057),
        ("pcm-hermes", 1.0, 0.0736 - 0.0126 - 0.0436, 0.0073 + 0.0093 - 0.0118),
    ],
)
def test_drift_exponents_follow_the_published_laws(name: str, g: float, mean: float, std: float) -> None:
    at = np.array([g])
    found = pcm.drift_exponent(at, np.zeros(1), constants(name))[0]
    assert found == pytest.approx(mean, rel=1e-9)
    assert pcm.drift_exponent(at, np.ones(1), constants(name))[0] - found == pytest.approx(std, rel=1e-9)


def test_hermes_writes_as_the_two_device_model_says() -> None:
    g = 0.6
    std = 0.16603222 + 4.71806468 * g - 8.48101252 * g**2 + 4.68961419 * g**3
    up = pcm.programmed(np.array([g]), np.array([1.0]), constants("pcm-hermes"))[0] - g
    assert up * 20.7 == pytest.approx(std, rel=1e-12)


def test_conductance_falls_by_a_power_of_time() -> None:
    """At 20 s after t0 = 20 s the time has doubled: 2^-0.05."""
    assert pcm.drifted(np.array([1.0]), np.array([0.05]), 20.0, constants("pcm-generic"))[0] == pytest.approx(2**-0.05)
    assert pcm.drifted(np.array([1.0]), np.array([0.05]), 0.0, constants("pcm-generic"))[0] == 1.0


def test_read_noise_is_of_the_published_amplitude_and_growth() -> None:
    found = constants("pcm-generic")
    assert pcm.read_amplitude(np.array([1.0]), found)[0] == pytest.approx(0.0088)
    assert pcm.read_amplitude(np.array([1e-6]), found)[0] == pytest.approx(0.2)
    assert pcm.accumulated(0.0, found) == pytest.approx(math.sqrt(math.log((20 + 250e-9) / 500e-9)))


def exact_converters(profile: Profile) -> Profile:
    replace = msgspec.structs.replace
    return replace(
        profile,
        dac=replace(profile.dac, levels=0),
        adc=replace(profile.adc, levels=0, full_scale=1.0),
        noise=replace(profile.noise, output_std=0.0),
    )


def relative_error(profile: Profile, instance: int, by_column: bool, compensated: bool) -> list[float]:
    random = np.random.default_rng(1000 + instance)
    matrix = random.normal(0, 0.1, (SIZE, SIZE))
    x = random.normal(0, 1, (256, SIZE)).astype(np.float32)
    top = np.abs(matrix).max(0) if by_column else np.full(SIZE, np.abs(matrix).max())
    twin = TwinDriver(profile, instance)
    twin.program(0, np.round(matrix / top * profile.weights.levels).astype(np.int32))
    kind = np.int32 if profile.dac.levels else np.float32
    unit = (np.eye(SIZE) * (profile.dac.levels or 1)).astype(kind)
    before = np.abs(twin.apply([0], unit)).mean()
    full_scale = np.abs(x).max(1, keepdims=True)
    codes = io.encode(x, full_scale, profile.dac.levels).astype(kind)
    wanted, found = x @ matrix, []
    for age in AGES:
        twin.advance(age)
        alpha = before / np.abs(twin.apply([0], unit)).mean() if compensated else 1.0
        y = twin.apply([0], codes) * profile.adc_unit * top * full_scale * alpha
        found.append(float(np.linalg.norm(wanted - y) / np.linalg.norm(wanted)))
    return found


@pytest.mark.parametrize(
    ("by_column", "perfect", "compensated", "instances", "reference"),
    [
        (False, False, True, 10, (0.1532, 0.1727, 0.1949, 0.2503)),
        (True, False, True, 2, (0.1242, 0.1400, 0.1578, 0.2008)),
        (True, True, True, 2, (0.1195, 0.1348, 0.1521, 0.1940)),
        (True, False, False, 2, (0.1288, 0.2577, 0.3592, 0.5162)),
    ],
)
def test_matrix_products_err_as_much_as_aihwkits(
    by_column: bool, perfect: bool, compensated: bool, instances: int, reference: tuple[float, ...]
) -> None:
    """Within 2 %: the references are means of 10 instances with spreads ≤ 0.008 (layer) and ≤ 0.0008 (column scale).

    Standard errors: 0.008/√10 = 0.0025 (1.6 %) for the first row, 0.0008·√(1/2 + 1/10) = 0.0006 (0.5 %) for others.
    """
    profile = load_profile("pcm-generic")
    profile = exact_converters(profile) if perfect else profile
    found = np.mean([relative_error(profile, k, by_column, compensated) for k in range(instances)], axis=0)
    assert found == pytest.approx(np.array(reference), rel=0.02)
