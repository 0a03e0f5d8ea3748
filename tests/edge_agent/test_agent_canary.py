"""Marked inputs go in; nothing of them leaves but in the answer to their own caller."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from agent_fakes import Operator
from hyle_bundle import generate_key
from hyle_deploy.broker import start_broker
from hyle_protos.control import control_pb2 as pb
from test_agent_command import Served
from test_agent_real_bundle import MODEL, compile_digits
from tritonclient.utils import InferenceServerException

MARK = np.float32(0.7310585975646973)
TEXT = "canary-5f1c93"


class Tap:
    """A TCP relay that keeps every byte that comes back from where it leads."""

    def __init__(self, to: tuple[str, int]) -> None:
        self.back, self.forth = bytearray(), bytearray()
        self._to = to
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                self._open.append(near)
                far = socket.create_connection(self._to)
                self._open.append(far)
            except OSError:
                return
            for one, other, kept in ((near, far, self.forth), (far, near, self.back)):
                threading.Thread(target=self._relay, args=(one, other, kept), daemon=True).start()

    @staticmethod
    def _relay(one: socket.socket, other: socket.socket, kept: bytearray) -> None:
        try:
            while data := one.recv(65536):
                kept += data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def tap(address: str) -> Iterator[Tap]:
    host, _, port = address.rpartition(":")
    made = Tap((host, int(port)))
    try:
        yield made
    finally:
        made.close()


def marks(x: np.ndarray, y: np.ndarray) -> dict[str, bytes]:
    """What must not be found: two neighbouring inputs or outputs as floats, one as text, and the request's id."""
    found = {"input": x.ravel()[:2].tobytes(), "text of an input": repr(float(MARK))[:9].encode(), "id": TEXT.encode()}
    return {**found, "output": y.ravel()[:2].tobytes(), "text of an output": repr(float(y.ravel()[0]))[:9].encode()}


def ask(client: triton.InferenceServerClient, x: np.ndarray, datatype: str = "FP32") -> np.ndarray:
    info = client.get_model_metadata("digits")
    tensor = triton.InferInput(info.inputs[0].name, list(x.shape), datatype)
    tensor.set_data_from_numpy(x)
    return client.infer("digits", [tensor], request_id=TEXT).as_numpy(info.outputs[0].name)


def test_marked_inputs_leave_in_the_answer_to_their_caller_alone(tmp_path: Path) -> None:
    generate_key("me", tmp_path)
    bundle = compile_digits(tmp_path, "1")
    with np.load(MODEL / "eval.npz") as data:
        shape = next(data[key].shape for key in data.files if key != "labels")
    x = np.full((2, *shape[1:]), MARK, np.float32)
    with (
        start_broker(tmp_path) as broker,
        tap(f"{broker.host}:{broker.port}") as mqtt,
        Served(tmp_path, "--trust", str(tmp_path / "me.pub"), "--broker", mqtt.address) as served,
        tap(served.address) as own,
        tap(served.address) as other,
    ):
        with grpc.insecure_channel(other.address) as channel:
            operator = Operator(channel)
            operator.deploy(bundle)
            with triton.InferenceServerClient(own.address) as caller:
                y = ask(caller, x)
                with pytest.raises(InferenceServerException):
                    ask(caller, x.astype(np.float64), "FP64")
                with pytest.raises(InferenceServerException):
                    ask(caller, np.where(np.arange(x.size).reshape(x.shape) > 2, np.nan, x))
            operator.stub.Status(pb.StatusRequest())
            operator.stub.SelfTest(pb.SelfTestRequest(model="digits"))
        with triton.InferenceServerClient(other.address) as observer:
            observer.get_inference_statistics()
            observer.get_model_repository_index()
            observer.get_model_config("digits")
        served.process.send_signal(signal.SIGABRT)
        log = "".join(served.process.communicate(timeout=30)).encode()
    wanted = marks(x, y)
    assert wanted["input"] in own.forth
    assert wanted["output"] in own.back
    files = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {"telemetry": bytes(mqtt.forth), "another caller": bytes(other.back), "log": log, **files}
    assert len(mqtt.forth) > 100
    assert not [path for path in files if Path(path).name.startswith("core")]
    leaks = [(place, what) for place, content in places.items() for what, mark in wanted.items() if mark in content]
    assert leaks == []


def test_audit_prints_the_allow_list_of_telemetry() -> None:
    from hyle_agent.telemetry.metrics import audit_rows
    from test_agent_command import hyle

    said = hyle("audit")
    assert said.returncode == 0
    assert all(name in said.stdout for _, name, *_ in audit_rows())
