"""A device that differs from its sheet for good."""

from __future__ import annotations

import numpy as np
import pytest
from hyle_errors import CallerError
from hyle_substrates.mismatch import Mismatch
from hyle_substrates.profile import load_profile
from hyle_substrates.twin import TwinDriver, connect

OFF = Mismatch(0.2, 0.1, 0.15)
FULL = np.full((512, 512), 127, np.int32)


def gains(twin: TwinDriver) -> np.ndarray:  # type: ignore[type-arg]
    return twin.weights(0) / 127.0


def test_a_mismatch_stays_through_writes_and_ages() -> None:
    twin = TwinDriver(load_profile("pcm-generic"), 3, exact=True, mismatch=OFF)
    twin.program(0, FULL)
    first = gains(twin)
    twin.program(0, -FULL)
    twin.advance(1e6)
    assert np.array_equal(gains(twin), -first)


def test_a_place_keeps_its_gain_whatever_the_size_of_what_is_written() -> None:
    twin = TwinDriver(load_profile("pcm-generic"), 3, exact=True, mismatch=OFF)
    twin.program(0, FULL)
    whole = gains(twin)
    twin.program(0, FULL[:7, :9])
    assert np.array_equal(gains(twin), whole[:7, :9])


def test_two_devices_differ_and_a_device_without_mismatch_is_its_sheet() -> None:
    found = []
    for seed, mismatch in ((3, OFF), (4, OFF), (3, Mismatch())):
        twin = TwinDriver(load_profile("pcm-generic"), seed, exact=True, mismatch=mismatch)
        twin.program(0, FULL)
        found.append(gains(twin))
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(found[2], np.ones((512, 512)))


def test_gains_spread_as_much_as_was_asked_for() -> None:
    twin = TwinDriver(load_profile("pcm-generic"), 3, exact=True, mismatch=Mismatch(weight=0.2))
    twin.program(0, FULL)
    # Standard error of a standard deviation: s/sqrt(2n); five of them, and codes of float32.
    assert np.std(gains(twin)) == pytest.approx(0.2, abs=5 * 0.2 / np.sqrt(2 * FULL.size) + 1e-6)


def test_a_driver_option_makes_a_device_that_differs() -> None:
    twin = connect({"profile": "pcm-generic", "seed": "3", "mismatch": "0.2"})
    plain = connect({"profile": "pcm-generic", "seed": "3"})
    for each in (twin, plain):
        each.program(0, FULL)
    assert np.std(twin.weights(0) / plain.weights(0)) > 0.2


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(CallerError, match="mismatch"):
        Mismatch(weight=share)


def test_an_option_that_is_no_number_is_refused() -> None:
    with pytest.raises(CallerError, match="mismatch"):
        connect({"profile": "pcm-generic", "mismatch": "much"})
