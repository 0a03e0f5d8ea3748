"""Every driver and substrate that is installed, held to its contract on the real thing."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hyle_agent.drivers import find_driver
from hyle_substrates import conformance, conformance_black_box, conformance_driver, conformance_substrate
from hyle_substrates.conformance import Subject
from hyle_substrates.conformance_substrate import check_substrate
from hyle_substrates.driver import BlackBox, BlackBoxInfo, DeviceError, Floats, ProgramReport
from hyle_substrates.profile import Adc, Array, Dac, Noise, Weights, load_profile
from hyle_substrates.substrate import substrate_names
from hyle_substrates.twin import TwinDriver
from rigs import BOARD, remote_twin, scpi_instrument, serial_board

RIGS = {"remote", "serial", "visa"}
ELSEWHERE = {
    "audio": "test_audio.py",
    "iio": "test_iio.py",
    "matter": "test_black_boxes.py",
    "several": "test_several.py",
    "spice": "test_spice.py",
    "twin": "check_substrate",
}


@pytest.fixture(params=sorted(RIGS))
def attached(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Any]]:
    name = request.param
    if name == "serial":
        rig, options = serial_board(tmp_path / "tty"), {"port": str(tmp_path / "tty"), "profile": str(BOARD)}
    elif name == "visa":
        rig = scpi_instrument()
        options = {"address": f"TCPIP::127.0.0.1::{rig.port}::SOCKET", "inputs": "6", "outputs": "5", "parameters": "2"}
    else:
        rig = remote_twin()
        options = {"address": f"127.0.0.1:{rig.port}"}
    yield name, {**options, "timeout_s": "1"}, rig
    rig.unplug()


def test_every_installed_driver_has_a_device_to_be_checked_on() -> None:
    assert {point.name for point in entry_points(group="hyle.drivers")} == RIGS | set(ELSEWHERE)


def test_a_driver_keeps_the_contract_through_hangs_kills_and_restarts(
    attached: tuple[str, dict[str, str], Any],
) -> None:
    name, options, rig = attached
    connect = find_driver(name)
    first = connect(options)
    first.close()
    checks = conformance_black_box.CHECKS if isinstance(first, BlackBox) else conformance_driver.CHECKS
    findings = conformance.run(checks, Subject(lambda: connect(options), rig))
    wrong = [finding for finding in findings if finding.outcome == "failed"]
    assert not wrong, wrong
    skipped = {finding.check for finding in findings if finding.outcome == "skipped"}
    assert skipped <= {"repeats itself by seed"}


@pytest.mark.parametrize("name", substrate_names())
def test_a_substrate_keeps_the_contract_with_every_profile(name: str) -> None:
    found = check_substrate(name)
    wrong = [(profile, f) for profile, findings in found.items() for f in findings if f.outcome == "failed"]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "changes",
    [
        {"array": Array(1, 1), "adc": Adc(127, 1.0)},
        {"array": Array(1, 7), "weights": Weights(2, "offset"), "dac": Dac(2, "static"), "adc": Adc(2, 2.0)},
        {"weights": Weights(1, "differential"), "dac": Dac(1, "static"), "adc": Adc(31, 4.0)},
        {"dac": Dac(1, "static", nonnegative=True), "adc": Adc(127, 4.0)},
        {"array": Array(1, 3), "weights": Weights(1, "native"), "dac": Dac(1, "static"), "adc": Adc(1, 1.0)},
        {"adc": Adc(127, 0.5), "noise": Noise(0.004)},
    ],
    ids=["one cell", "one row", "two-valued", "a binary modulator", "one bit throughout", "a narrow converter"],
)
def test_small_and_coarse_devices_keep_the_contract_too(changes: dict[str, Any]) -> None:
    physics = {"substrate": "sram", "physics": {"mismatch": 0.0}}
    sheet = msgspec.structs.replace(load_profile("pcm-hermes"), **physics, **changes)
    findings = conformance.run(conformance_driver.CHECKS, Subject(lambda: TwinDriver(sheet, 0)))
    findings += conformance.run(conformance_substrate.CHECKS, sheet)
    wrong = [finding for finding in findings if finding.outcome == "failed"]
    assert not wrong, wrong


class _Wrong(TwinDriver):
    """A twin with one fault."""

    fault = ""

    def apply(self, tiles: Any, codes: Any) -> Any:
        if self.fault == "takes anything":
            codes = np.clip(np.nan_to_num(np.asarray(codes, dtype=np.float64)), -127, 127).astype(np.int32)
        answer = super().apply(tiles, codes)
        if self.fault == "range":
            return answer + 4 * self.describe().profile.adc.levels
        if self.fault == "batch":
            return answer + 50 * len(codes)
        if self.fault == "noise":
            return answer + np.random.default_rng().integers(-60, 61, answer.shape)
        return -answer if self.fault == "sign" else answer

    def program(self, tile: int, targets: Any) -> Any:
        if self.fault == "keeps" and tile in self._matter:
            return ProgramReport(tile, 0.0, 0.0)
        return super().program(tile, targets)

    def close(self) -> None:
        if self.fault != "stays open":
            super().close()


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("range", "answers codes in range"),
        ("batch", "treats samples alone"),
        ("noise", "has the noise it states"),
        ("sign", "holds what was programmed"),
        ("keeps", "forgets what was there before"),
        ("takes anything", "refuses what is wrong"),
        ("stays open", "ends when it is closed"),
    ],
)
def test_a_driver_with_a_fault_is_found_out(fault: str, check: str) -> None:
    def connect() -> TwinDriver:
        driver = _Wrong(load_profile("pcm-hermes"), 0)
        driver.fault = fault
        return driver

    findings = conformance.run(conformance_driver.CHECKS, Subject(connect, timeout_s=1.0))
    assert check in {finding.check for finding in findings if finding.outcome == "failed"}


def test_another_device_at_the_same_place_is_refused(tmp_path: Path) -> None:
    rig = serial_board(tmp_path / "tty")
    driver = find_driver("serial")({"port": str(tmp_path / "tty"), "profile": str(BOARD), "timeout_s": "1"})
    driver.program(0, np.ones((4, 4), dtype=np.int32))
    rig.unplug()
    other = tmp_path / "other.py"
    source = (Path(__file__).parent / "serial_board.py").read_text().replace("pty-board", "stranger")
    other.write_text(source)
    rig._command[1] = str(other)
    rig.replug()
    with pytest.raises(DeviceError, match="does not answer"):
        driver.apply([0], np.ones((1, 4), dtype=np.int32))
    with pytest.raises(DeviceError, match="stranger"):
        driver.apply([0], np.ones((1, 4), dtype=np.int32))
    driver.close()
    rig.unplug()


class Altered:
    """A black box of two inputs whose device comes back with its answers altered for so many calls."""

    def __init__(self, calls: int) -> None:
        self.away, self._left, self._met = False, calls, False

    def describe(self) -> BlackBoxInfo:
        return BlackBoxInfo("altered", 0, 2, 2, health={"connected": float(not self.away)})

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        if self.away:
            self._met = True
            raise DeviceError("It is away.", remedy="Bring it back.")
        if self._met and self._left:
            self._left -= 1
            return -inputs
        return inputs

    def close(self) -> None:
        self.away = False

    def freeze(self) -> None:
        self.away = True

    thaw = replug = close
    unplug = freeze


@pytest.mark.parametrize(("calls", "outcome"), [(0, "passed"), (1, "passed"), (2, "failed")])
def test_a_command_that_takes_effect_late_is_no_changed_device_and_a_changed_device_is_found(
    calls: int, outcome: str
) -> None:
    box = Altered(calls)
    checks = (conformance_black_box.gives_up_on_a_device_that_hangs,)
    assert [finding.outcome for finding in conformance.run(checks, Subject(lambda: box, box, 5.0))] == [outcome]
