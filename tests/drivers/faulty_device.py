"""A device with a fault that a file names, behind the substrate service, in a process of its own.

`faulty_device.py PORT PROFILE SEED FILE`; the file's text is read at every call: `stuck`, `column` (one column stuck),
`saturated`, `nan`, `hang`, or nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from hyle_substrates.driver import Codes, Device, Driver, ProgramReport
from hyle_substrates.profile import load_profile
from hyle_substrates.remote_server import serve
from hyle_substrates.twin import TwinDriver

HANGS_S = 4.0


class FaultyDriver:
    """A driver around another, which does what the file says."""

    def __init__(self, driver: Driver, file: Path) -> None:
        self._driver, self._file = driver, file
        self._levels = driver.describe().profile.adc.levels

    def describe(self) -> Device:
        return replace(self._driver.describe(), simulated=False)

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        return self._driver.program(tile, targets)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        answers = self._driver.apply(tiles, codes)
        fault = self._file.read_text().strip() if self._file.is_file() else ""
        if fault == "stuck":
            answers = np.full_like(answers, 17)
        if fault == "column":
            answers[:, 0] = 17
        if fault == "saturated":
            answers = np.full_like(answers, self._levels)
        if fault == "nan":
            return np.full(answers.shape, np.nan, dtype=np.float32)
        if fault == "hang":
            time.sleep(HANGS_S)
        return answers

    def close(self) -> None:
        self._driver.close()


if __name__ == "__main__":
    port, profile, seed, file = sys.argv[1:]
    server = serve(lambda: FaultyDriver(TwinDriver(load_profile(profile), int(seed)), Path(file)), f"127.0.0.1:{port}")
    print(server.port, flush=True)
    server.wait()
