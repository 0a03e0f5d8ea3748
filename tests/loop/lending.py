"""An agent process that lends its device, who holds it in another process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from hyle_protos.control import control_pb2, control_pb2_grpc
from hyle_protos.inference import inference_pb2, inference_pb2_grpc
from served import Served, hyle

Float64s = np.ndarray[Any, np.dtype[np.float64]]
ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "tests/data/digits_mlp"
HERE = Path(__file__).parent
EXPIRE_S, GRACE_S = 6.0, 4.0
CONFIG = """
listen = "127.0.0.1:0"
insecure = true
self_test_interval_s = 0.0
drain_s = 2.0

[driver]
name = "twin"

[driver.options]
profile = "pcm-hermes"
seed = 5

[maintenance]
serve = "refuse"
free_tiles = true
expire_s = {expire_s}
grace_s = {grace_s}
longest_s = 600.0
"""


class Lender:
    """An agent process with digits on it."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        (folder / "ready").unlink(missing_ok=True)
        self.served = Served(folder, *arguments)
        self.address = self.served.address

    def ask(self) -> tuple[float, str]:
        """Accuracy of what serves, and what answered; raises grpc.RpcError."""
        logits, labels, substrate = self._answers()
        return float(np.mean(logits.argmax(1) == labels)), substrate

    def _answers(self) -> tuple[Float64s, np.ndarray[Any, Any], str]:
        with np.load(DIGITS / "eval.npz") as data, grpc.insecure_channel(self.address) as channel:
            name = next(key for key in data if key != "labels")
            x = data[name].astype(np.float32)
            request = inference_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[x.tobytes()])
            request.inputs.add(name=name, datatype="FP32", shape=x.shape)
            answer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
            logits = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(len(x), -1).astype(np.float64)
            return logits, data["labels"].reshape(-1), answer.parameters["substrate"].string_param

    def refused(self) -> grpc.RpcError | None:
        """The error of an inference, or None if it is answered."""
        try:
            self.ask()
        except grpc.RpcError as error:
            return error
        return None

    def status(self) -> control_pb2.StatusResponse:
        with grpc.insecure_channel(self.address) as channel:
            return control_pb2_grpc.ControlStub(channel).Status(control_pb2.StatusRequest(), timeout=20)

    def proven(self) -> bool:
        """Whether the serving slot's last self-test is within its bound, and the model ready."""
        model = self.status().models[0]
        test = next(slot.self_test for slot in model.slots if slot.slot == model.active)
        return model.ready and test.passed and test.residual <= test.tolerance


@contextmanager
def lending(folder: Path, bundle: Path | None, *arguments: str, **changes: str) -> Iterator[Lender]:
    """Run an agent; `changes` replaces text of its configuration."""
    text = CONFIG.format(expire_s=EXPIRE_S, grace_s=GRACE_S)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    config = folder / "agent.toml"
    config.write_text(text)
    agent = Lender(folder, ["--config", str(config), *arguments])
    try:
        if bundle is not None:
            hyle("deploy", str(bundle), "--to", agent.address)
        yield agent
    finally:
        if agent.served.process.poll() is None:
            agent.served.__exit__()


class Holder:
    """A process that leases the whole device and then drives it: `program`, `apply`, or `idle`."""

    def __init__(self, address: str, what: str) -> None:
        command = [sys.executable, str(HERE / "lease_holder.py"), address, what]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "held"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def until(true: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """Wait until something is true; a busy machine may take long, a wrong one takes for ever."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)
