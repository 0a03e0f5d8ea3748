"""An agent whose device is slow to `open`, to `program`, or `hangs`: `python slow_process.py HOW STORE READY_FILE`.

It says `begun` on stdout once the device was asked for that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from agent_fakes import FakeExecutor, FakeProgram, config_for, connect_twin
from hyle_agent.cli import announce, serve
from hyle_bundle.manifest import Manifest
from hyle_substrates.driver import Codes, Device, Driver, ProgramReport

AGES_S = 60.0


class SlowDriver:
    def __init__(self, how: str, driver: Driver) -> None:
        self._how, self._driver = how, driver

    def describe(self) -> Device:
        return self._driver.describe()

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        return self._driver.program(tile, targets)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        print("begun", flush=True)
        time.sleep(AGES_S if self._how == "hangs" else 0.05)
        return codes

    def close(self) -> None:
        print("closed", flush=True)


class SlowExecutor(FakeExecutor):
    def __call__(self, directory: Path, manifest: Manifest, driver: Driver, *, threads: int) -> FakeProgram:
        for _ in range(round(AGES_S / 0.05)):
            driver.apply([], np.zeros((1, 1), np.int32))
        return super().__call__(directory, manifest, driver, threads=threads)


def connect(how: str, options: Mapping[str, str]) -> Any:
    if how == "open":
        print("begun", flush=True)
        time.sleep(AGES_S)
    return SlowDriver(how, connect_twin(options))


if __name__ == "__main__":
    how, store, ready = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    serve(
        config_for(store, watch_s=30.0, drain_s=0.5),
        ready=lambda address: announce(address, ready),
        load=SlowExecutor(),
        connect=lambda options: connect(how, options),
    )
