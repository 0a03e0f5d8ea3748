"""Queries per second of the attached-hardware drivers, each to a device in another process on this machine."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/drivers"))

from hyle_agent.drivers.serial import connect as connect_serial
from hyle_agent.drivers.visa import connect as connect_visa
from hyle_substrates.remote import connect as connect_remote
from rigs import BOARD, remote_twin, scpi_instrument, serial_board

SECONDS = 3.0


def rate(call: Callable[[], object]) -> float:
    call()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        call()
        calls += 1
    return calls / (time.perf_counter() - started)


def row(driver: str, what: str, per_s: float) -> None:
    print(f"{driver:8} {what:52} {per_s:10,.0f}")


def main() -> None:
    print(f"{'driver':8} {'one call':52} {'calls/s':>10}")
    rng = np.random.default_rng(0)
    instrument = scpi_instrument()
    address = f"TCPIP::127.0.0.1::{instrument.port}::SOCKET"
    box = connect_visa({"address": address, "inputs": "8", "outputs": "4"})
    inputs = rng.uniform(-1, 1, (100, 8))
    row("visa", "query (*IDN?)", rate(box.describe))
    row(
        "visa",
        "waveform of 96 points out and in, of 100 a batch",
        100 * rate(lambda: box.respond(inputs[:, :0], inputs)),
    )
    box.close()
    instrument.unplug()
    with tempfile.TemporaryDirectory() as folder:
        rig = serial_board(Path(folder) / "tty")
        board = connect_serial({"port": f"{folder}/tty", "profile": str(BOARD)})
        board.program(0, rng.integers(-127, 128, (16, 8)).astype(np.int32))
        codes = rng.integers(-127, 128, (1, 16)).astype(np.int32)
        row("serial", "query (HEALTH)", rate(board.describe))
        row("serial", "16 codes to 8, on a pseudo-terminal", rate(lambda: board.apply([0], codes)))
        board.close()
        rig.unplug()
    server = remote_twin()
    remote = connect_remote({"address": f"127.0.0.1:{server.port}"})
    remote.program(0, rng.integers(-7, 8, (64, 32)).astype(np.int32))
    for batch in (1, 1000):
        codes = rng.integers(-7, 8, (batch, 64)).astype(np.int32)
        row("remote", f"{batch} x 64 codes to a twin of 64 x 32", rate(lambda sent=codes: remote.apply([0], sent)))
    remote.close()
    server.unplug()


if __name__ == "__main__":
    main()
