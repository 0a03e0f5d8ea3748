"""Saturation with cancels, random deadlines, clients that vanish, slow readers and installs; every answer is checked.

The agent runs as a process; its resident memory is read all along. Prints what was asked, what came back, and memory
after warm-up and at the end; ends with 1 if an answer was wrong, a request got stuck, or memory grew.

Run: python benchmarks/bench_soak.py [--minutes M] [--calls N] [--engine completion-queue|aio]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import onnx
from hyle_protos.inference import inference_pb2 as pb
from onnx import TensorProto, helper, numpy_helper

import hyle
from hyle.console import Console

METHOD = "/inference.GRPCInferenceService/ModelInfer"
ROWS, COLS, SAMPLES = 64, 10, 256
WARM = 0.25
# Growth that is none: pages of code that come back into memory one by one, and the allocator's own play.
ALLOWED_GROWTH_MB = 8.0
STUCK_S = 30.0
FINE = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


@dataclass
class Tally:
    """What came back, and the rows that did not match; written by many threads under the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    codes: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    open: int = 0

    def add(self, code: str, wrong: bool) -> None:
        with self.lock:
            self.codes[code] += 1
            self.wrong += wrong
            self.open -= 1


def make_model(folder: Path, version: int) -> tuple[Path, np.ndarray]:
    """A matrix for each version on the ideal substrate, whose answers are the exact product."""
    weights = np.random.default_rng(version).normal(size=(ROWS, COLS)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", ROWS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", COLS])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "soak", [x], [y], [numpy_helper.from_array(weights, "w")])
    model, calib, bundle = (folder / f"{version}.{kind}" for kind in ("onnx", "npz", "hyle"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    np.savez(calib, x=inputs())
    hyle.compile(model, target="ideal", calib=calib, output=bundle, name="soak", version=str(version), counter=version)
    return bundle, weights


def inputs() -> np.ndarray:
    return np.random.default_rng(99).normal(size=(SAMPLES, ROWS)).astype(np.float32)


def start(folder: Path, engine: str) -> tuple[subprocess.Popen[bytes], str]:
    config, ready = folder / "agent.toml", folder / "ready"
    config.write_text(f'engine = "{engine}"\nself_test_interval_s = 5.0\nqueue = 64\n')
    command = [sys.executable, "-m", "hyle", "agent", "run", "--config", str(config), "--listen", "127.0.0.1:0"]
    command += ["--store", str(folder / "store"), "--insecure", "--profile", "ideal", "--ready-file", str(ready)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not ready.exists():
        if process.poll() is not None:
            raise SystemExit("The agent did not start.")
        time.sleep(0.01)
    return process, ready.read_text()


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


class Client(threading.Thread):
    """Keeps some calls in flight; now and then it cancels one, gives it too little time, or vanishes with them all."""

    def __init__(self, address: str, number: int, calls: int, tally: Tally, answers: dict[str, np.ndarray]) -> None:
        super().__init__(daemon=True)
        self._address, self._calls, self._tally, self._answers = address, calls, tally, answers
        self._random = random.Random(number)
        self._x = inputs()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            with grpc.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                free = threading.Semaphore(self._calls)
                ask = channel.unary_unary(METHOD)
                for _ in range(self._random.randrange(200, 2000)):
                    if self.stopped.is_set():
                        break
                    free.acquire()
                    self._ask(ask, free)
                if self._random.random() < 0.5:  # else the channel closes on calls in flight: a client that vanishes
                    for _ in range(self._calls):
                        free.acquire(timeout=STUCK_S)

    def _ask(self, ask: grpc.UnaryUnaryMultiCallable, free: threading.Semaphore) -> None:
        row, roll = self._random.randrange(SAMPLES), self._random.random()
        request = pb.ModelInferRequest(model_name="soak", id=str(row))
        request.inputs.add(name="x", datatype="FP32", shape=[1, ROWS])
        request.raw_input_contents.append(self._x[row].tobytes())
        timeout = self._random.uniform(0.0005, 0.05) if roll < 0.1 else STUCK_S
        with self._tally.lock:
            self._tally.open += 1
        future = ask.future(request.SerializeToString(), timeout=timeout)
        future.add_done_callback(lambda done: self._count(done, row, free))
        if 0.1 <= roll < 0.2:
            future.cancel()
        elif roll > 0.999:
            time.sleep(0.2)  # a slow reader

    def _count(self, done: grpc.Future, row: int, free: threading.Semaphore) -> None:
        free.release()
        code = "CANCELLED" if done.cancelled() else done.code().name
        self._tally.add(code, code == "OK" and not self._right(done.result(), row))

    def _right(self, data: bytes, row: int) -> bool:
        answer = pb.ModelInferResponse.FromString(data)
        exact = self._x[row] @ self._answers[answer.model_version]
        got = np.frombuffer(answer.raw_output_contents[0], "<f4")
        # Float32 products of 64 terms: 64 roundings of 6e-8 of terms that are a few units large.
        return answer.id == str(row) and bool(np.allclose(got, exact, rtol=1e-4, atol=1e-4))


def soak(folder: Path, seconds: float, calls: int, engine: str) -> int:
    made = {str(version): make_model(folder, version) for version in range(1, 5)}
    answers = {version: weights for version, (_, weights) in made.items()}
    process, address = start(folder, engine)
    with hyle.connect(address) as operator:
        operator.deploy(made["1"][0])
    tally, samples, installs = Tally(), [], 0
    clients = [Client(address, number, calls, tally, answers) for number in range(4)]
    for client in clients:
        client.start()
    begin = time.monotonic()
    every = min(60.0, seconds / 4)
    while (passed := time.monotonic() - begin) < seconds:
        time.sleep(min(1.0, seconds / 60))
        samples.append((passed, resident_mb(process)))
        if installs < 3 and passed > (installs + 1) * every:
            installs += 1
            with hyle.connect(address) as operator:
                operator.deploy(made[str(installs + 1)][0])
    for client in clients:
        client.stopped.set()
    for client in clients:
        client.join(STUCK_S * 2)
    time.sleep(1.0)
    stuck = tally.open
    warm = [mb for passed, mb in samples if WARM * seconds <= passed < 2 * WARM * seconds]
    last = [mb for passed, mb in samples if passed >= (1 - WARM) * seconds]
    process.send_signal(signal.SIGTERM)
    clean = process.wait(30) == 0
    grown = statistics.median(last) - statistics.median(warm)
    strange = {code: count for code, count in tally.codes.items() if code not in FINE}
    rows: list[list[object]] = [[code, count] for code, count in tally.codes.most_common()]
    rows += [["wrong answers", tally.wrong], ["stuck requests", stuck], ["installs while serving", installs]]
    rows.append(["RSS MB, second quarter", f"{statistics.median(warm):.1f}"])
    rows.append(["RSS MB, last quarter", f"{statistics.median(last):.1f}"])
    Console().table(
        f"soak of {seconds:.0f} s, {engine}, 4 clients with {calls} calls in flight", ["what", "count"], rows
    )
    whole = clean and not tally.wrong and not stuck and not strange and installs == 3 and grown <= ALLOWED_GROWTH_MB
    return 0 if whole else 1


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
