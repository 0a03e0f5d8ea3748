"""The example sketch, compiled for this machine and driven through a pseudo-terminal by the `serial` driver."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import tty
from pathlib import Path

import pytest
from hyle_agent.drivers.serial import connect
from hyle_substrates import conformance, conformance_driver
from hyle_substrates.conformance import Subject

ROOT = Path(__file__).parents[2]
SKETCH = ROOT / "examples/serial_board"


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_the_sketch_keeps_the_contract(tmp_path: Path) -> None:
    program = tmp_path / "sketch"
    header, source = Path(__file__).parent / "arduino.h", SKETCH / "serial_board.ino"
    subprocess.run(["g++", "-include", str(header), "-x", "c++", str(source), "-o", str(program)], check=True)
    master, slave = pty.openpty()
    tty.setraw(slave)
    board = subprocess.Popen([str(program), str(master)], pass_fds=[master])
    options = {"port": os.ttyname(slave), "profile": str(SKETCH / "board.toml"), "timeout_s": "2"}
    try:
        findings = conformance.run(conformance_driver.CHECKS, Subject(lambda: connect(options)))
    finally:
        board.kill()
        board.wait()
        os.close(master)
        os.close(slave)
    wrong = [finding for finding in findings if finding.outcome == "failed"]
    assert not wrong, wrong
