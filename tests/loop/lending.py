"""An agent process that lends its device, who holds it in another process, and a network that breaks between them."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import threading
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


class Wire:
    """A TCP proxy that can be cut: connections break at once, and none is made until it is mended."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self._cut = threading.Event()
        self._over = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.1)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        self._cut.set()
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._cut.clear()

    def close(self) -> None:
        self._over.set()
        self.cut()
        self._thread.join(5)
        self._listening.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listening.accept()
            except TimeoutError:
                continue
            if self._cut.is_set():
                client.close()
                continue
            client.settimeout(None)
            try:
                server = socket.create_connection(self._to, timeout=20)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._pairs.append((client, server))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with contextlib.suppress(OSError, ValueError):
            while not self._over.is_set():
                for end in select.select([client, server], [], [], 0.2)[0]:
                    data = end.recv(65536)
                    if not data:
                        raise OSError
                    other[end].sendall(data)
        for end in other:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def until(true: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """Wait until something is true; a busy machine may take long, a wrong one takes for ever."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)
