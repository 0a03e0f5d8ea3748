"""A twin that ages by a clock and can only be driven and read."""

from __future__ import annotations

import numpy as np
import pytest
from hyle_errors import CallerError
from hyle_substrates import conformance, conformance_driver
from hyle_substrates.ageing import AgeingTwin
from hyle_substrates.conformance import Subject
from hyle_substrates.driver import SimulatedMatter
from hyle_substrates.profile import load_profile
from hyle_substrates.twin import TwinDriver, connect


def gain(driver: AgeingTwin) -> float:
    """Mean answer to full rows of the highest target."""
    return float(driver.apply([0], np.full((8, 64), 20, dtype=np.int32)).mean())


def test_its_matter_is_as_old_as_the_clock_says() -> None:
    clock = [0.0]
    profile = load_profile("pcm-generic")
    twin = TwinDriver(profile, 1, noiseless=True)
    driver = AgeingTwin(twin, age_s=25.0, speed=1000.0, clock=lambda: clock[0], grain=0.0)
    driver.program(0, np.full((64, 16), profile.weights.levels, dtype=np.int32))
    fresh = gain(driver)
    assert driver.describe().health["age_s"] == 25.0
    clock[0] = 86_400.0
    assert driver.describe().health["age_s"] == 25.0 + 1000.0 * 86_400.0
    other = TwinDriver(profile, 1, noiseless=True)
    other.program(0, np.full((64, 16), profile.weights.levels, dtype=np.int32))
    other.advance(25.0 + 1000.0 * 86_400.0)
    assert gain(driver) == float(other.apply([0], np.full((8, 64), 20, dtype=np.int32)).mean())
    assert gain(driver) < 0.9 * fresh


def test_it_ages_in_steps_of_its_grain() -> None:
    clock = [0.0]
    driver = AgeingTwin(TwinDriver(load_profile("pcm-generic"), 1), age_s=100.0, clock=lambda: clock[0], grain=0.1)
    for now, age in ((5.0, 100.0), (11.0, 111.0), (20.0, 111.0), (23.0, 123.0)):
        clock[0] = now
        assert driver.describe().health["age_s"] == age


def test_the_drivers_option_makes_one_that_keeps_the_contract() -> None:
    # Older than its first read, so that the seconds which the checks take do not change its noise.
    options = {"profile": "pcm-hermes", "age_s": "3600", "speed": "1e-6"}
    driver = connect(options)
    assert isinstance(driver, AgeingTwin)
    assert not isinstance(driver, SimulatedMatter)
    driver.close()
    findings = conformance.run(conformance_driver.CHECKS, Subject(lambda: connect(options), timeout_s=5.0))
    failed = {finding.check for finding in findings if finding.outcome == "failed"}
    assert failed <= {"repeats itself by seed"}  # two of one seed are of two ages


@pytest.mark.parametrize("speed", ["-1", "nan", "1e12", "fast"])
def test_a_speed_that_is_none_is_refused(speed: str) -> None:
    with pytest.raises(CallerError, match="speed"):
        connect({"profile": "pcm-hermes", "speed": speed})
