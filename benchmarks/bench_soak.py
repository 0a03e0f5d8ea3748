"""Saturation with cancels, random deadlines, clients that vanish, slow readers and an install every minute.

Every answer is checked. The agent runs as a process; its memory, descriptors and threads are read all along. Prints
what was asked, what came back, and memory after warm-up and at the end; ends with 1 if an answer was wrong, a request
got stuck, an install failed, or anything grew.

Run: python benchmarks/bench_soak.py --minutes 30 [--calls N] [--engine completion-queue|aio]
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from soak_clients import COLS, MODEL, ROWS, SAMPLES, STUCK_S, Client, Floats, SlowReader, Tally, inputs

import hyle
from hyle.console import Console

HERE = Path(__file__).parent
WARM = 0.25
# Growth that is none: pages of code that come back into memory one by one, and the allocator's own play.
ALLOWED_GROWTH_MB = 8.0
# Sockets that a client which vanished leaves until its end is noticed, and a worker thread or two that come and go.
ALLOWED_MORE = 16
FINE = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "stream DEADLINE_EXCEEDED", "stream CANCELLED"}


def make_model(folder: Path, version: int) -> tuple[Path, Floats]:
    """A matrix for each version on the ideal substrate, whose answers are the exact product."""
    weights = np.random.default_rng(version).normal(size=(ROWS, COLS)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", ROWS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", COLS])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], MODEL, [x], [y], [numpy_helper.from_array(weights, "w")])
    model, calib, bundle = (folder / f"{version}.{kind}" for kind in ("onnx", "npz", "hyle"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    np.savez(calib, x=inputs())
    hyle.compile(model, target="ideal", calib=calib, output=bundle, name=MODEL, version=str(version), counter=version)
    return bundle, weights


def start(folder: Path, engine: str, watch_s: float) -> tuple[subprocess.Popen[bytes], str]:
    config, ready = folder / "agent.toml", folder / "ready"
    config.write_text(f'engine = "{engine}"\nself_test_interval_s = 5.0\nqueue = 64\nwatch_s = {watch_s}\n')
    command = [sys.executable, "-m", "hyle", "agent", "run", "--config", str(config), "--listen", "127.0.0.1:0"]
    command += ["--store", str(folder / "store"), "--insecure", "--profile", "ideal", "--ready-file", str(ready)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    while not ready.exists():
        if process.poll() is not None:
            raise SystemExit("The agent did not start.")
        time.sleep(0.01)
    return process, ready.read_text()


@dataclass(frozen=True, slots=True)
class Reading:
    """The agent at a moment: seconds since the begin, resident memory, open descriptors, threads."""

    passed_s: float
    resident_mb: float
    descriptors: int
    threads: int


def read(pid: int, passed_s: float) -> Reading:
    proc = Path(f"/proc/{pid}")
    pages = int((proc / "statm").read_text().split()[1])
    threads = len(list((proc / "task").iterdir()))
    resident_mb = pages * os.sysconf("SC_PAGESIZE") / 2**20
    return Reading(passed_s, resident_mb, len(list((proc / "fd").iterdir())), threads)


class Vanishing(threading.Thread):
    """Starts clients and kills them with their calls in flight."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._random = random.Random(7)
        self.stopped = threading.Event()
        self.killed = 0

    def run(self) -> None:
        while not self.stopped.is_set():
            command = [sys.executable, str(HERE / "soak_clients.py"), self._address]
            client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.stopped.wait(self._random.uniform(1.5, 4.0))
            client.kill()
            client.wait()
            self.killed += 1


class Installing(threading.Thread):
    """Installs and activates the next version every so many seconds; `failures` says what went wrong."""

    def __init__(self, address: str, bundles: Mapping[str, Path], every_s: float) -> None:
        super().__init__(daemon=True)
        self._address, self._bundles, self._every_s = address, bundles, every_s
        self.stopped = threading.Event()
        self.done = 0
        self.failures: list[str] = []

    def run(self) -> None:
        for version, bundle in itertools.islice(self._bundles.items(), 1, None):
            if self.stopped.wait(self._every_s):
                return
            try:
                with hyle.connect(self._address) as operator:
                    operator.deploy(bundle)
                self.done += 1
            except Exception as error:
                self.failures.append(f"install of version {version}: {error}")


def soak(folder: Path, seconds: float, calls: int, engine: str) -> int:
    # So often that memory has seen both slots and a trial before its first reading counts.
    every_s = min(60.0, seconds / 16)
    made = {str(version): make_model(folder, version) for version in range(1, max(2, int(seconds / every_s)) + 1)}
    answers = {version: weights for version, (_, weights) in made.items()}
    process, address = start(folder, engine, every_s / 4)
    with hyle.connect(address) as operator:
        operator.deploy(made["1"][0])
    tally, readings = Tally(), []
    clients = [Client(address, number, calls, tally, answers) for number in range(4)]
    slow = [SlowReader(address, number, tally, answers) for number in range(2)]
    vanishing = Vanishing(address)
    installing = Installing(address, {version: bundle for version, (bundle, _) in made.items()}, every_s)
    everybody = [*clients, *slow, vanishing, installing]
    for one in everybody:
        one.start()
    begin = time.monotonic()
    while (passed_s := time.monotonic() - begin) < seconds and process.poll() is None:
        time.sleep(min(1.0, seconds / 60))
        readings.append(read(process.pid, passed_s))
    for one in everybody:
        one.stopped.set()
    for one in everybody:
        one.join(STUCK_S * 2)
    time.sleep(1.0)
    stuck = tally.open + sum(one.is_alive() for one in everybody)
    idle_ok = answers_at_once(address)
    process.send_signal(signal.SIGTERM)
    clean = process.wait(30) == 0
    whole = report(readings, tally, stuck, installing, vanishing, engine)
    print("\n".join(installing.failures), end="", file=sys.stderr)
    return 0 if whole and clean and idle_ok else 1


def answers_at_once(address: str) -> bool:
    """Whether the agent answers a fresh client within a second, now that nobody else asks."""
    with hyle.connect(address) as client, suppress(Exception):
        begin = time.monotonic()
        client.infer(MODEL, {"x": inputs()})
        return time.monotonic() - begin < 1.0
    return False


def report(
    readings: list[Reading], tally: Tally, stuck: int, installing: Installing, vanishing: Vanishing, engine: str
) -> bool:
    """Print the table; returns whether nothing was wrong."""
    length = readings[-1].passed_s
    warm = [one for one in readings if WARM * length <= one.passed_s < 2 * WARM * length]
    last = [one for one in readings if one.passed_s >= (1 - WARM) * length]
    rows: list[list[object]] = [[code, count] for code, count in tally.codes.most_common()]
    rows += [["answers read slowly from streams", tally.streamed], ["clients killed", vanishing.killed]]
    rows += [["wrong answers", tally.wrong], ["stuck requests", stuck], ["installs while serving", installing.done]]
    grown = {}
    for what in ("resident_mb", "descriptors", "threads"):
        before, after = (statistics.median(getattr(one, what) for one in some) for some in (warm, last))
        grown[what] = after - before
        rows.append([f"{what.replace('_', ' ')}: second quarter, last quarter", f"{before:.1f}, {after:.1f}"])
    answered = tally.codes["OK"] + tally.streamed * SAMPLES
    rows.append(["samples answered and checked per second", f"{answered / length:.0f}"])
    Console().table(f"soak of {length:.0f} s, {engine}", ["what", "count"], rows)
    strange = set(tally.codes) - FINE
    flat = grown["resident_mb"] <= ALLOWED_GROWTH_MB
    flat = flat and max(grown["descriptors"], grown["threads"]) <= ALLOWED_MORE
    served = tally.codes["OK"] > 0 and tally.streamed > 0 and vanishing.killed > 0 and installing.done > 0
    return flat and served and not (strange or tally.wrong or stuck or installing.failures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="30 for the whole soak")
    parser.add_argument("--calls", type=int, default=24)
    parser.add_argument("--engine", choices=["completion-queue", "aio"], default="completion-queue")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return soak(Path(folder), args.minutes * 60, args.calls, args.engine)


if __name__ == "__main__":
    sys.exit(main())
