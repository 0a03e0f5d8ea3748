"""Converters: where there is no context, the driver says so; over the network it is found and read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hyle_agent.drivers.iio import connect
from hyle_errors import CallerError
from hyle_substrates import conformance, conformance_black_box
from hyle_substrates.conformance import Subject
from hyle_substrates.driver import DeviceError
from rigs import Process

pytest.importorskip("iio", reason="pylibiio or libiio is not installed", exc_type=(ImportError, OSError))


def test_no_context_is_said_so() -> None:
    if list(Path("/sys/bus").glob("iio/devices/*")):
        pytest.skip("this machine has converters")
    with pytest.raises(DeviceError, match=r"do not answer|voltage outputs"):
        connect({"high_v": "3.3"})


CONTEXT = """<?xml version="1.0" encoding="utf-8"?><!DOCTYPE context [
<!ELEMENT context (device)*><!ELEMENT device (channel)*><!ELEMENT channel (attribute)*>
<!ELEMENT attribute EMPTY><!ATTLIST context name CDATA #REQUIRED description CDATA #IMPLIED>
<!ATTLIST device id CDATA #REQUIRED name CDATA #IMPLIED>
<!ATTLIST channel id CDATA #REQUIRED type (input|output) #REQUIRED name CDATA #IMPLIED>
<!ATTLIST attribute name CDATA #REQUIRED filename CDATA #IMPLIED>]>
<context name="xml" description="board"><device id="iio:device0" name="dac">
<channel id="voltage0" type="output"><attribute name="raw" filename="out_voltage0_raw"/>
<attribute name="scale" filename="out_voltage0_scale"/></channel></device>
<device id="iio:device1" name="adc"><channel id="voltage0" type="input">
<attribute name="raw" filename="in_voltage0_raw"/><attribute name="scale" filename="in_voltage0_scale"/></channel>
</device></context>
"""


@pytest.mark.skipif(shutil.which("iiod") is None, reason="iiod is not installed")
def test_converters_are_found_over_the_network_and_what_they_do_not_give_is_said(tmp_path: Path) -> None:
    (tmp_path / "board.xml").write_text(CONTEXT)
    server = subprocess.Popen(["iiod", "-u", f"xml:{tmp_path}/board.xml"], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while True:
            try:
                connect({"high_v": "3.3", "uri": "ip:127.0.0.1"})
            except DeviceError as error:
                message = error.message
            if "refused" not in message or time.monotonic() > end:
                break
            time.sleep(0.05)
    finally:
        server.kill()
        server.wait()
    # A context from a file has channels and no values: it is discovered, and the first value read fails.
    assert "do not answer" in message
    assert "refused" not in message


@pytest.mark.parametrize("wrong", [{}, {"high_v": "1", "low_v": "2"}, {"high_v": "x"}])
def test_wrong_options_are_named(wrong: dict[str, str]) -> None:
    with pytest.raises(CallerError, match="iio driver"):
        connect(wrong)


HOST = "127.0.0.77"
"""An address of this machine of its own: libiio 0.24 knows one port only."""


@pytest.fixture
def board() -> Iterator[Process]:
    rig = Process([sys.executable, str(Path(__file__).parent / "iio_board.py"), HOST, "30431"])
    yield rig
    rig.unplug()


def test_values_are_written_and_read_in_volts(board: Process) -> None:
    box = connect({"high_v": "3.0", "low_v": "0.3", "uri": f"ip:{HOST}", "parameters": "2"})
    info = box.describe()
    assert (info.parameters, info.inputs, info.outputs) == (2, 2, 2)
    rng = np.random.default_rng(0)
    parameters, inputs = rng.uniform(-1, 1, (40, 2)), rng.uniform(-1, 1, (40, 2))
    answers = box.respond(parameters, inputs)
    volts = 0.3 + 2.7 * (np.concatenate([parameters, inputs], axis=1) + 1.0) / 2.0 - 1.65
    product = 0.2 * volts[:, :1] * volts[:, 3:]
    want = 1.65 + 1.5 * np.tanh(0.9 * volts[:, :2] + 0.5 * volts[:, 2:] + product)
    # Half a step of either converter, 0.4 mV, and the circuit's largest slope: 1.5 · (0.9 + 0.5 + 2 · 0.33).
    np.testing.assert_allclose(answers, want, atol=0.0004 * (1.0 + 1.5 * 2.1))
    box.close()


def test_the_iio_driver_keeps_the_contract_through_a_hanging_and_a_dead_board(board: Process) -> None:
    options = {"high_v": "3.0", "low_v": "0.3", "uri": f"ip:{HOST}", "parameters": "2"}
    findings = conformance.run(conformance_black_box.CHECKS, Subject(lambda: connect(options), board, 30.0))
    assert not [finding for finding in findings if finding.outcome == "failed"], findings
