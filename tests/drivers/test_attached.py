"""What becomes of devices whose links break in ways that their drivers did not foresee."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hyle_agent.drivers.several import Several
from hyle_substrates.attached import AttachedDriver
from hyle_substrates.attached_black_box import AttachedBlackBox
from hyle_substrates.claim import Claim
from hyle_substrates.driver import BlackBoxInfo, Codes, Device, DeviceError, ProgramReport
from hyle_substrates.profile import load_profile
from hyle_substrates.twin import TwinDriver


class Bench:
    """A link like that of docs/add-a-driver.md; `says` is what the device sends for codes, `reading` for its health."""

    def __init__(self, claim: str = "") -> None:
        self.claim = Claim(claim) if claim else None
        self.twin = TwinDriver(load_profile("pcm-hermes"), noiseless=True)
        self.says: Any = None
        self.reading: Any = 25.0

    def describe(self) -> Device:
        if isinstance(self.reading, Exception):
            raise self.reading
        return Device("bench-1", load_profile("pcm-hermes"), 4, False, {"temperature_c": self.reading})

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        return self.twin.program(tile, targets)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        answer = self.says if self.says is not None else {"codes": self.twin.apply(tiles, codes).tolist()}
        return np.array(answer["codes"], dtype=np.int32)

    def close(self) -> None:
        if self.claim is not None:
            self.claim.release()


@pytest.mark.parametrize(
    "says", [{"ok": 1}, {"codes": [[None] * 3]}, {"codes": [[2**40] * 3]}, {"codes": [[1], [2, 3]]}]
)
def test_an_answer_that_the_driver_cannot_read_is_the_devices_fault_and_the_next_one_is_read(says: Any) -> None:
    bench = Bench()
    driver = AttachedDriver(lambda: bench)
    driver.program(0, np.full((2, 3), 100, dtype=np.int32))
    codes = np.full((1, 2), 100, dtype=np.int32)
    before, bench.says = driver.apply([0], codes), says
    with pytest.raises(DeviceError) as caught:
        driver.apply([0], codes)
    assert caught.value.fault == "bad answer"
    bench.says = None
    assert driver.apply([0], codes).shape == before.shape


@pytest.mark.parametrize("reading", ["warm", None, TypeError("'list' object is not a mapping"), KeyError("serial")])
def test_a_health_that_nobody_understands_is_a_fault_and_no_exception(reading: Any) -> None:
    bench = Bench()
    driver = AttachedDriver(lambda: bench)
    bench.reading = reading
    device = driver.describe()
    assert (device.fault, device.health["connected"]) == ("bad answer", 0.0)
    bench.reading = 26.0
    assert driver.describe().health == {"temperature_c": 26.0, "connected": 1.0}


def test_a_device_that_cannot_be_described_is_not_kept() -> None:
    claim = f"test:{__name__}"
    links = []

    def opened() -> Bench:
        links.append(Bench(claim))
        links[-1].reading = "warm" if len(links) == 1 else 25.0
        return links[-1]

    with pytest.raises(DeviceError, match="temperature_c"):
        AttachedDriver(opened)
    AttachedDriver(opened).close()


def test_several_devices_name_the_fault_of_the_one_that_has_it() -> None:
    benches = [Bench(), Bench()]
    devices = [AttachedDriver(lambda bench=bench: bench) for bench in benches]  # type: ignore[misc]
    joined = Several(devices)
    assert joined.describe().fault == ""
    benches[1].reading = TimeoutError("no answer")
    assert (joined.describe().fault, joined.describe().health["connected"]) == ("timeout", 0.0)


class Plate:
    """A black box's link."""

    def __init__(self, claim: str = "") -> None:
        self.claim = Claim(claim) if claim else None
        self.error: Exception | None = None

    def describe(self) -> BlackBoxInfo:
        if self.error is not None:
            raise self.error
        return BlackBoxInfo("plate-1", 0, 2, 2)

    def respond(self, parameters: Any, inputs: Any) -> Any:
        if self.error is not None:
            raise self.error
        return np.tanh(inputs)

    def close(self) -> None:
        if self.claim is not None:
            self.claim.release()


@pytest.mark.parametrize(
    ("error", "fault"),
    [(OSError("gone"), "unplugged"), (TimeoutError("late"), "timeout"), (KeyError("x"), "bad answer")],
)
def test_a_black_boxs_link_may_break_wherever_it_likes(error: Exception, fault: str) -> None:
    plate = Plate()
    box = AttachedBlackBox(lambda: plate)
    plate.error = error
    found = box.describe()
    assert (found.fault, found.health["connected"]) == (fault, 0.0)
    with pytest.raises(DeviceError) as caught:
        box.respond(np.zeros((1, 0)), np.zeros((1, 2)))
    assert caught.value.fault == fault
    plate.error = None
    assert box.respond(np.zeros((1, 0)), np.zeros((1, 2))).shape == (1, 2)


def test_a_black_box_that_cannot_be_described_is_not_kept() -> None:
    claim = f"test:{__name__}"
    links = []

    def opened() -> Plate:
        links.append(Plate(claim))
        links[-1].error = OSError("gone") if len(links) == 1 else None
        return links[-1]

    with pytest.raises(DeviceError):
        AttachedBlackBox(opened)
    AttachedBlackBox(opened).close()
