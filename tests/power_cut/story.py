"""An agent's life on a new disk, recorded: the real process under strace, the real client, bundles compiled and signed.

Everything is acknowledged at a known time, so that each later state of the disk can be held against what was promised.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnx
from agent_fakes import Operator, chunks
from crash_disk import History, Tree
from hyle_bundle import generate_key, open_bundle
from hyle_protos.control import control_pb2 as pb
from onnx import TensorProto, helper, numpy_helper
from recording import CALLS, STRACE, Interpreter, calls, read_tree

import hyle

ROWS, COLS, MODEL = 24, 5, "power"
NOTHING = ""
WATCH_S = 1.0


def weights(version: int) -> np.ndarray:
    return np.random.default_rng(version).normal(size=(ROWS, COLS)).astype(np.float32)


def make_bundle(folder: Path, version: int) -> Path:
    """A matrix for each version on the ideal substrate, whose answers are the exact product; signed with `me.key`."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", ROWS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", COLS])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    graph = helper.make_graph(nodes, MODEL, [x], [y], [numpy_helper.from_array(weights(version), "w")])
    model, calib, bundle = (folder / f"{version}.{kind}" for kind in ("onnx", "npz", "hyle"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    np.savez(calib, x=np.random.default_rng(9).normal(size=(40, ROWS)).astype(np.float32))
    names = {"name": MODEL, "version": str(version), "counter": version, "key": folder / "me.key"}
    hyle.compile(model, target="ideal", calib=calib, output=bundle, **names)
    return bundle


@dataclass(frozen=True, slots=True)
class Promise:
    """From `begun` to `acknowledged` the serving version changes from the last promise's to this one.

    `floor` is the lowest counter that may be installed from then on.
    """

    what: str
    begun: float
    acknowledged: float
    serves: str
    floor: int


@dataclass
class Story:
    """What was recorded.

    Attributes:
        history: Every operation on the disk.
        promises: What the agent acknowledged, in order.
        really: The disk as it really was when each process had ended.
        replayed: The disk as the operations make it, at the same moments.
        marks: How many operations there were by then, from 0 on.
        key: Public key that every bundle is signed with.
    """

    history: History
    promises: list[Promise]
    really: list[Tree]
    replayed: list[Tree]
    marks: list[int]
    key: Path

    def allowed(self, happened: int) -> set[str]:
        """Which versions may serve after so many operations: what was promised, and what was being done."""
        last = self.history.operations[happened - 1].time if happened else 0.0
        done = self._kept(happened)
        doing = [promise for promise in self.promises if promise not in done and promise.begun <= last]
        return {(done[-1].serves if done else NOTHING), *(promise.serves for promise in doing)}

    def floor(self, happened: int) -> int:
        """The lowest counter that may be installed, as was promised by then."""
        return max((promise.floor for promise in self._kept(happened)), default=0)

    def _kept(self, happened: int) -> list[Promise]:
        operations = self.history.operations
        upcoming = operations[happened].time if happened < len(operations) else float("inf")
        return [promise for promise in self.promises if promise.acknowledged <= upcoming]


@contextmanager
def serve(folder: Path, key: Path, python: Sequence[str]) -> Iterator[tuple[str, Callable[[signal.Signals], None]]]:
    """The agent on `folder/disk/store`; yields its address and what ends it. SIGTERM does at the end.

    Args:
        folder: Where its log, its ready file and its disk are.
        key: Whose bundles it trusts.
        python: The command that runs Python, perhaps under a tracer.
    """
    ready, log = folder / "ready", folder / "log"
    ready.unlink(missing_ok=True)
    agent = ["-m", "hyle", "agent", "run", "--listen", "127.0.0.1:0", "--profile", "ideal", "--trust", str(key)]
    agent += ["--store", str(folder / "disk/store"), "--ready-file", str(ready), "--config", str(folder / "agent.toml")]
    (folder / "agent.toml").write_text(f"watch_s = {WATCH_S}\nself_test_interval_s = 0.0\n")
    with log.open("w") as words:
        process = subprocess.Popen([*python, *agent], stderr=words)

    def finish(how: signal.Signals) -> None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        # The upload that is broken off ends on another thread, which may be about to end the process as well.
        with suppress(ProcessLookupError):
            os.kill(int(children[0]) if children else process.pid, how)
        process.wait(60)

    try:
        end = time.monotonic() + 90
        while not ready.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, "the agent did not start"
            time.sleep(0.02)
        yield ready.read_text(), finish
        if process.poll() is None:
            finish(signal.SIGTERM)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def live(folder: Path) -> Story:
    """Let the agent live in three processes, each of which is recorded.

    The first installs, activates and proves a version, does so with a second one, rolls back from it while it is on
    trial, calibrates and installs a third. The second activates that, is left amid an upload and killed. The
    third cleans up after it, counts a death in the trial, marks the version good and removes the model.
    """
    disk = folder / "disk"
    disk.mkdir()
    generate_key("me", folder)
    bundles = {version: make_bundle(folder, version) for version in (1, 2, 3, 4)}
    promises: list[Promise] = []
    before = read_tree(disk)
    interpreter = Interpreter(disk, before.copy())
    really, replayed, marks = [], [], [0]

    def promised(what: str, serves: str, call: Callable[[], object], floor: int = 0) -> None:
        begun = time.time()
        call()
        promises.append(Promise(what, begun, time.time(), serves, floor))

    def prove(operator: Operator, version: int) -> None:
        time.sleep(WATCH_S + 0.1)
        promised("prove", str(version), lambda: calibrate(operator), floor=version)

    def activate(operator: Operator, version: int) -> None:
        with open_bundle(bundles[version]) as bundle:
            request = pb.ActivateRequest(model=MODEL, digest=bundle.digest)
        promised("activate", str(version), lambda: operator.stub.Activate(request))

    @contextmanager
    def recorded() -> Iterator[tuple[Operator, Callable[[signal.Signals], None]]]:
        traces = folder / f"traces-{len(marks)}"
        traces.mkdir()
        tracer = [*STRACE, *CALLS, "-o", str(traces / "t"), sys.executable]
        with serve(folder, folder / "me.pub", tracer) as (address, finish), grpc.insecure_channel(address) as channel:
            yield Operator(channel), finish
        interpreter.process(calls(traces.iterdir(), disk))
        really.append(read_tree(disk))
        replayed.append(interpreter.tree.copy())
        marks.append(len(interpreter.operations))

    with recorded() as (operator, _):
        promised("install", NOTHING, lambda: operator.install(bundles[1]))
        activate(operator, 1)
        prove(operator, 1)
        promised("install", "1", lambda: operator.install(bundles[2]))
        activate(operator, 2)
        promised("roll back", "1", lambda: operator.stub.Rollback(pb.RollbackRequest(model=MODEL)))
        promised("calibrate", "1", lambda: calibrate(operator))
        promised("install", "1", lambda: operator.install(bundles[3]))
    with recorded() as (operator, finish):
        with open_bundle(bundles[4]) as bundle:  # announced before: no plan is made for a bundle that a trial forbids
            sent = list(chunks(bundle, operator.plan(bundle), step=300))[:6]
        activate(operator, 3)
        break_off(operator, sent, disk, lambda: finish(signal.SIGKILL))
    with recorded() as (operator, _):
        prove(operator, 3)
        promised("remove", NOTHING, lambda: operator.stub.Remove(pb.RemoveRequest(model=MODEL)))
    folders = frozenset(interpreter.tree.folders)
    history = History(before, interpreter.operations, folders)
    return Story(history, promises, really, replayed, marks, folder / "me.pub")


def calibrate(operator: Operator) -> None:
    """The self-test, and the recalibration call where the control service has one."""
    operator.stub.SelfTest(pb.SelfTestRequest(model=MODEL))
    if hasattr(operator.stub, "Recalibrate"):
        operator.stub.Recalibrate(pb.RecalibrateRequest(model=MODEL))


def rest(disk: Path) -> None:
    """Wait until a second has passed without a change of the disk."""
    before, since = "", time.monotonic()
    for _ in range(600):
        try:
            now = read_tree(disk).digest()
        except FileNotFoundError:  # it was moved meanwhile
            now = ""
        if not now or now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > 1.0:
            return
        time.sleep(0.1)


def break_off(operator: Operator, sent: list[pb.BlobChunk], disk: Path, kill: Callable[[], None]) -> None:
    """Upload a part of a bundle, and kill the agent while it waits for the rest."""

    def some() -> Iterator[pb.BlobChunk]:
        yield from sent
        rest(disk)
        kill()

    with suppress(grpc.RpcError):
        operator.stub.Upload(some())
