"""The twin of every profile keeps the driver's contract, and its noise is what the profile says."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hyle_errors import CallerError
from hyle_substrates.driver import DeviceError
from hyle_substrates.host import BlockTiles
from hyle_substrates.profile import Profile, load_profile, profile_names
from hyle_substrates.twin import TwinDriver, connect

TARGETS = profile_names()


def targets_for(profile: Profile, rows: int = 12, cols: int = 9, seed: int = 0) -> np.ndarray:
    rows, cols = min(rows, profile.array.rows or rows), min(cols, profile.array.cols or cols)
    relative = np.random.default_rng(seed).uniform(-1, 1, (rows, cols))
    levels = profile.weights.levels
    return np.round(relative * levels).astype(np.int32) if levels else relative.astype(np.float32)


def codes_for(profile: Profile, batch: int = 40, rows: int = 12, seed: int = 1) -> np.ndarray:
    rows = min(rows, profile.array.rows or rows)
    low = 0 if profile.dac.nonnegative else -1
    relative = np.random.default_rng(seed).uniform(low, 1, (batch, rows))
    levels = profile.dac.levels
    return np.round(relative * levels).astype(np.int32) if levels else relative.astype(np.float32)


def replaced(profile: Profile, **parts: object) -> Profile:
    return msgspec.structs.replace(profile, **parts)


@pytest.mark.parametrize("name", TARGETS)
def test_the_same_seed_is_the_same_device(name: str) -> None:
    profile = load_profile(name)
    found = []
    for _ in range(2):
        twin = TwinDriver(profile, seed=5)
        twin.program(0, targets_for(profile))
        twin.advance(3600.0)
        found.append((twin.weights(0), twin.apply([0], codes_for(profile))))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", [n for n in TARGETS if n not in ("ideal", "sram-mc2ram")])
def test_another_seed_tile_or_write_is_another_device(name: str) -> None:
    profile = load_profile(name)
    twin, other = TwinDriver(profile, 1), TwinDriver(profile, 2)
    for driver, tile in ((twin, 0), (twin, 1), (other, 0)):
        driver.program(tile, targets_for(profile))
    first = twin.weights(0)
    assert not np.array_equal(first, twin.weights(1))
    assert not np.array_equal(first, other.weights(0))
    twin.program(0, targets_for(profile))
    assert not np.array_equal(first, twin.weights(0))


@pytest.mark.parametrize("name", TARGETS)
def test_devices_of_the_first_version_are_still_the_same(name: str) -> None:
    """Digest of the weights after a day, rounded to a hundredth of a level, as any machine must find them."""
    profile = load_profile(name)
    twin = TwinDriver(profile, seed=11)
    twin.program(0, targets_for(profile))
    twin.advance(86400.0)
    rounded = np.round(twin.weights(0).astype(np.float64) * profile.weight_unit, 4)
    assert sha256(np.ascontiguousarray(rounded + 0.0, dtype="<f8").tobytes()).hexdigest()[:16] == DIGESTS[name]


ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[1])
from test_twin import test_devices_of_the_first_version_are_still_the_same as same
for name in sys.argv[2:]:
    same(name)
"""


@pytest.mark.parametrize("processor", ["Haswell", "Nehalem", "Prescott"])
def test_a_device_is_the_same_on_another_processor(processor: str) -> None:
    """OpenBLAS takes its kernels for a processor that it is told of: other sums, other signs of singular vectors."""
    names = [name for name in TARGETS if name.startswith("mzi")]
    command = [sys.executable, "-c", ELSEWHERE, str(Path(__file__).parent), *names]
    environment = {**os.environ, "OPENBLAS_CORETYPE": processor}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", TARGETS)
def test_codes_come_back_as_integers_in_range(name: str) -> None:
    profile = load_profile(name)
    twin = TwinDriver(profile)
    twin.program(0, targets_for(profile))
    twin.program(1, targets_for(profile, cols=4, seed=2))
    out = twin.apply([0, 1], codes_for(profile))
    assert out.shape == (40, targets_for(profile).shape[1] + 4)
    if profile.adc.levels:
        assert out.dtype == np.int32
        assert np.abs(out).max() <= profile.adc.levels


@pytest.mark.parametrize("name", TARGETS)
def test_exact_matter_multiplies_within_the_converters_steps(name: str) -> None:
    """Half an ADC step, doubled where a column reads half of the product, plus float32's rounding."""
    profile = load_profile(name)
    twin = TwinDriver(profile, noiseless=True, exact=True)
    wanted, codes = targets_for(profile), codes_for(profile)
    twin.program(0, wanted)
    block = BlockTiles(0, len(wanted), (0,), reference=profile.reference)
    found = block.read(twin, codes) * profile.adc_unit / profile.swing
    exact = (codes * profile.dac_unit) @ (wanted * profile.weight_unit)
    bound = 0.5 * profile.adc_unit / profile.swing if profile.adc.levels else 0.0
    free = np.abs(exact) < profile.adc.full_scale * 0.9 if profile.adc.levels else np.full(exact.shape, True)
    if profile.wires is None:
        assert np.abs(found - exact)[free].max() <= bound + 1e-4


@pytest.mark.parametrize("name", TARGETS)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    profile = load_profile(name)
    twin = TwinDriver(profile, noiseless=True)
    twin.program(0, targets_for(profile))
    codes = codes_for(profile)
    whole = twin.apply([0], codes)
    single = np.concatenate([twin.apply([0], codes[i : i + 1]) for i in range(len(codes))])
    if profile.adc.levels:
        assert np.abs(whole - single).max() <= 1
        assert np.mean(whole != single) < 0.01
    else:
        assert np.allclose(whole, single, atol=1e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_device_must_refuse_is_refused(name: str) -> None:
    profile = load_profile(name)
    twin = TwinDriver(profile)
    with pytest.raises(DeviceError, match="not programmed"):
        twin.apply([0], codes_for(profile))
    with pytest.raises(DeviceError, match="no tile"):
        twin.program(-1, targets_for(profile))
    with pytest.raises(DeviceError, match="finite or exceeds"):
        twin.program(0, np.full((2, 2), np.nan))
    twin.program(0, targets_for(profile))
    rows = len(targets_for(profile))
    with pytest.raises(DeviceError, match=f"{rows} rows"):
        twin.apply([0], codes_for(profile, rows=rows - 1))
    if profile.weights.levels:
        with pytest.raises(DeviceError, match="exceeds"):
            twin.program(0, np.full((2, 2), profile.weights.levels + 1))
        with pytest.raises(DeviceError, match="do not fit"):
            twin.program(0, np.zeros((profile.array.rows + 1, 1), dtype=np.int32))
    if profile.dac.levels:
        with pytest.raises(DeviceError, match="DAC code"):
            twin.apply([0], np.full((1, rows), profile.dac.levels + 1))
    if profile.dac.nonnegative:
        with pytest.raises(DeviceError, match="negative"):
            twin.apply([0], np.full((1, rows), -1))
    twin.close()
    with pytest.raises(DeviceError, match="closed"):
        twin.program(0, targets_for(profile))
    with pytest.raises(DeviceError, match="closed"):
        twin.weights(0)


def test_a_programmed_tile_reads_back_within_its_reported_residual() -> None:
    profile = load_profile("pcm-generic")
    twin = TwinDriver(profile)
    wanted = targets_for(profile)
    report = twin.program(3, wanted)
    error = (twin.weights(3) - wanted) * profile.weight_unit
    assert report.tile == 3
    assert report.residual == pytest.approx(float(np.sqrt(np.mean(error**2))), rel=1e-6)


def wide(profile: Profile, **noise: float) -> Profile:
    """The profile on exact converters, with this noise alone."""
    adc = msgspec.structs.replace(profile.adc, levels=0)
    return replaced(profile, adc=adc, noise=msgspec.structs.replace(profile.noise, **noise))


def read_variance(profile: Profile, codes: np.ndarray, wanted: np.ndarray, reads: int = 20_000) -> np.ndarray:
    twin = TwinDriver(profile, seed=3, exact=True)
    twin.program(0, wanted)
    answers = twin.apply([0], np.tile(codes, (reads, 1)))
    variance: np.ndarray = answers.var(axis=0)
    return variance


NONE = {"output_std": 0.0, "weight_std": 0.0, "photons": 0.0}


@pytest.mark.parametrize("name", ["pcm-generic", "rram-cmo", "slm-wang2022"])
def test_read_noise_has_the_variance_that_the_profile_states(name: str) -> None:
    """20,000 reads: a variance's relative standard error is √(2/20000) = 1 %, here within five of them."""
    profile = load_profile(name)
    codes, wanted = codes_for(profile, batch=1), targets_for(profile)
    x, w = codes[0] * profile.dac_unit, wanted * profile.weight_unit
    constant = read_variance(wide(profile, **NONE | {"output_std": 0.3}), codes, wanted)
    assert np.allclose(constant, 0.3**2, rtol=0.05)
    weight = read_variance(wide(profile, **NONE | {"weight_std": 0.1}), codes, wanted)
    assert np.allclose(weight, (0.1 * profile.swing) ** 2 * np.sum(x * x), rtol=0.05)
    seen = x @ ((1 + w) / 2) if profile.reference else np.abs(x) @ np.abs(w)
    shot = read_variance(wide(profile, **NONE | {"photons": 50.0}), codes, wanted)
    assert np.allclose(shot, np.maximum(seen, 0.0) / 50.0, rtol=0.05, atol=1e-6)


def test_shot_noise_passes_a_test_of_dispersion_against_poisson() -> None:
    """Counts of one column: (n-1)·variance/mean is chi-square with n-1 degrees of freedom if they are Poisson.

    The two-sided test rejects one true Poisson counter in a thousand: |z| < 3.29 of the normal limit.
    """
    profile = wide(load_profile("slm-wang2022"), **NONE | {"photons": 200.0})
    twin = TwinDriver(profile, seed=8, exact=True)
    twin.program(0, np.full((12, 1), 255, dtype=np.int32))
    n = 20_000
    counts = twin.apply([0], np.full((n, 12), 128, dtype=np.int32))[:, 0] * 200.0
    dispersion = (n - 1) * counts.var(ddof=1) / counts.mean()
    assert counts.mean() == pytest.approx(12 * 128 / 255 * 200, rel=0.01)
    assert abs(dispersion - (n - 1)) / (2 * (n - 1)) ** 0.5 < 3.29


def test_noise_of_weights_drawn_per_output_is_that_of_weights_drawn_anew() -> None:
    """The sum of Gaussian weight errors is Gaussian: same mean and variance as an explicit draw of every weight."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, 12)
    explicit = (random.standard_normal((40_000, 12)) * 0.1) @ x
    assert explicit.var() == pytest.approx(0.01 * float(x @ x), rel=0.05)
    assert np.mean(explicit**4) / explicit.var() ** 2 == pytest.approx(3.0, rel=0.1)


def test_two_passes_give_signed_answers_on_matter_without_negative_inputs() -> None:
    profile = wide(load_profile("slm-wang2022"), **NONE)
    twin = TwinDriver(profile, exact=True)
    wanted = targets_for(profile)
    twin.program(0, wanted)
    codes = np.random.default_rng(4).integers(-255, 256, (30, 12)).astype(np.int32)
    found = BlockTiles(0, 12, (0,), polarity="two-pass").read(twin, codes)
    assert np.allclose(found, (codes / 255.0) @ (wanted / 255.0), atol=1e-4)
    clipped = BlockTiles(0, 12, (0,), polarity="positive").read(twin, codes)
    assert np.allclose(clipped, (np.maximum(codes, 0) / 255.0) @ (wanted / 255.0), atol=1e-4)


def test_a_reloadable_chip_takes_more_tiles_than_it_has_arrays() -> None:
    profile = load_profile("sram-mc2ram")
    twin = TwinDriver(profile)
    twin.program(profile.array.count + 5, targets_for(profile))
    fixed = load_profile("pcm-hermes")
    with pytest.raises(DeviceError, match="64 tiles"):
        TwinDriver(fixed).program(64, targets_for(fixed))


def test_the_twin_is_made_from_an_agents_options() -> None:
    twin = connect({"profile": "pcm-generic", "seed": "4", "age_s": "60"})
    assert twin.describe().identity == "twin:pcm-generic:4"
    assert twin.describe().health["age_s"] == 60.0
    for wrong in ({"sead": "1"}, {"seed": "x"}, {"seed": "-1"}):
        with pytest.raises(CallerError):
            connect({"profile": "ideal"} | wrong)
    with pytest.raises(CallerError):
        connect({})
    with pytest.raises(CallerError):
        twin.advance(-1.0)


DIGESTS = {
    "flash-sonos": "1af6caf15050e07e",
    "ideal": "2086d53d6a48e4d9",
    "mrr-16": "d2d4a1ac2b0afdeb",
    "mrr-echeverria2024": "90c7ca057ad07cac",
    "mzi-64": "25bd30541ccc5e4e",
    "mzi-pai2023": "a9dbd95c34dd6beb",
    "pcm-generic": "42798b067331ee02",
    "pcm-hermes": "f92e6d7a6b50fd45",
    # Since devices end at their range once all causes are in; 4a690b66752b6427 before.
    "rram-cmo": "208bc564b38f7b2b",
    "rram-neurram": "323e0442fca3d573",
    "rram-neurram-wires": "e8dad6d18b58974f",
    "slm-wang2022": "1bcf4c8e966bf306",
    "sram-mc2ram": "9939026e80e0f87f",
}
