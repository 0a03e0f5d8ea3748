"""Marked inputs go in; nothing of them leaves but in the answer to their own caller."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from agent_fakes import Operator
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hyle_bundle import generate_key
from hyle_deploy.broker import start_broker
from hyle_protos.control import control_pb2 as pb
from hyle_protos.inference import inference_pb2, inference_pb2_grpc
from relay import relay
from test_agent_command import Served
from test_agent_real_bundle import MODEL, compile_digits
from tritonclient.utils import InferenceServerException

MARK = np.float32(0.7310585975646973)
TEXT = "canary-5f1c93"


def may_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def marks(x: np.ndarray, y: np.ndarray) -> dict[str, bytes]:
    """What must not be found: two neighbouring inputs or outputs as floats, one as text, and the request's id."""
    found = {"input": x.ravel()[:2].tobytes(), "text of an input": repr(float(MARK))[:9].encode(), "id": TEXT.encode()}
    return {**found, "output": y.ravel()[:2].tobytes(), "text of an output": repr(float(y.ravel()[0]))[:9].encode()}


def ask(client: triton.InferenceServerClient, x: np.ndarray, datatype: str = "FP32") -> np.ndarray:
    info = client.get_model_metadata("digits")
    tensor = triton.InferInput(info.inputs[0].name, list(x.shape), datatype)
    tensor.set_data_from_numpy(x)
    return client.infer("digits", [tensor], request_id=TEXT).as_numpy(info.outputs[0].name)


class Place:
    """All that a deployment has around an agent, which is asked with marked inputs; `said` is what left, by place."""

    def __init__(self, folder: Path, engine: str, python: tuple[str, ...] = ()) -> None:
        self.folder = folder
        generate_key("me", folder)
        self.bundle = compile_digits(folder, "1")
        with np.load(MODEL / "eval.npz") as data:
            shape = next(data[key].shape for key in data.files if key != "labels")
        self.x = np.full((2, *shape[1:]), MARK, np.float32)
        self.y = self.x
        (folder / "agent.toml").write_text(f'engine = "{engine}"\nself_test_interval_s = 0.5\n')
        self.said: dict[str, bytes] = {}
        with (
            start_broker(folder) as broker,
            relay(f"{broker.host}:{broker.port}") as self.mqtt,
            self._agent(python) as served,
            relay(served.address) as self.own,
            relay(served.address) as self.other,
            exporter(f"{broker.host}:{broker.port}") as metrics,
        ):
            with grpc.insecure_channel(self.other.address) as channel:
                self._operate(channel)
            self._observe()
            time.sleep(1.5)  # the exporter's and the broker's turn; nothing is asserted of how long it takes
            self.said["metrics"] = metrics()
            os.kill(traced(served.process.pid) if python else served.process.pid, signal.SIGABRT)
            self.said["log"] = "".join(served.process.communicate(timeout=60)).encode()
        self.said |= {"telemetry": bytes(self.mqtt.forth), "another caller": bytes(self.other.back)}
        self.said |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def _agent(self, python: tuple[str, ...]) -> Served:
        trust = ("--trust", str(self.folder / "me.pub"), "--broker", self.mqtt.address)
        config = ("--config", str(self.folder / "agent.toml"))
        command = (*python, sys.executable, "-X", "faulthandler", "-m", "hyle")
        return Served(self.folder, *trust, *config, program=command)

    def _operate(self, channel: grpc.Channel) -> None:
        operator = Operator(channel)
        operator.deploy(self.bundle)
        with triton.InferenceServerClient(self.own.address) as caller:
            self.y = ask(caller, self.x)
            self._ask_wrongly(caller)
            self._stream()
        operator.stub.Status(pb.StatusRequest())
        operator.stub.SelfTest(pb.SelfTestRequest(model="digits"))

    def _ask_wrongly(self, caller: triton.InferenceServerClient) -> None:
        spoilt = np.where(np.arange(self.x.size).reshape(self.x.shape) > 2, np.nan, self.x)
        for wrong, datatype in ((self.x.astype(np.float64), "FP64"), (spoilt, "FP32"), (self.x[:, :3], "FP32")):
            with pytest.raises(InferenceServerException):
                ask(caller, wrong, datatype)

    def _stream(self) -> None:
        request = inference_pb2.ModelInferRequest(model_name="digits", id=TEXT, raw_input_contents=[self.x.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=self.x.shape)
        unknown = inference_pb2.ModelInferRequest(model_name="none", id=TEXT, raw_input_contents=[self.x.tobytes()])
        with grpc.insecure_channel(self.own.address) as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert len(list(stub.ModelStreamInfer(iter([request, unknown, request])))) == 3

    def _observe(self) -> None:
        with triton.InferenceServerClient(self.other.address) as observer:
            observer.get_inference_statistics()
            observer.get_model_repository_index()
            observer.get_model_config("digits")
        with grpc.insecure_channel(self.other.address) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="digits"))
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            assert list(reflection.ServerReflectionInfo(iter([asked])))

    def leaks(self, said: dict[str, bytes]) -> list[tuple[str, str]]:
        wanted = marks(self.x, self.y)
        return [(place, what) for place, content in said.items() for what, mark in wanted.items() if mark in content]


def traced(tracer: int) -> int:
    """The process that a tracer started."""
    return int(Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()[0])


@contextmanager
def exporter(broker: str) -> Iterator[Callable[[], bytes]]:
    """The Prometheus exporter over the telemetry; yields what scrapes it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hyle_deploy.exporter", "--broker", broker, "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    page = f"http://127.0.0.1:{port}/metrics"

    def scrape() -> bytes:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(page, timeout=20) as said:
                return bytes(said.read())
            time.sleep(0.1)
        raise AssertionError("the exporter did not answer")

    try:
        yield scrape
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("engine", ["completion-queue", "aio"])
def test_marked_inputs_leave_in_the_answer_to_their_caller_alone(tmp_path: Path, engine: str) -> None:
    place = Place(tmp_path, engine)
    wanted = marks(place.x, place.y)
    assert wanted["input"] in place.own.forth
    assert wanted["output"] in place.own.back
    assert len(place.mqtt.forth) > 100
    assert b"hyle_" in place.said["metrics"]
    assert b"Fatal Python error: Aborted" in place.said["log"]
    assert not [path for path in place.said if Path(path).name.startswith("core")]
    assert place.leaks(place.said) == []


SENDING = "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,sendfile,splice,vmsplice,tee,connect"


@pytest.mark.skipif(not may_trace(), reason="strace is not installed or may not trace here")
def test_of_all_bytes_that_the_process_gives_to_the_kernel_only_the_answers_hold_a_mark(tmp_path: Path) -> None:
    """Whatever leaves a process goes through these calls: sockets, files, pipes, the terminal."""
    traces = tmp_path.parent / f"{tmp_path.name}-traces"
    traces.mkdir()
    tracer = ("strace", "-ff", "-yy", "-xx", "-s", "16777216", "--quiet=all", "-e", "signal=none")
    tracer += ("-e", f"trace={SENDING}", "-o", str(traces / "t"))
    place = Place(tmp_path, "completion-queue", tracer)
    wanted = marks(place.x, place.y)
    answered: set[str] = set()
    connected: set[bytes] = set()
    sent = 0
    for line in (line for path in traces.iterdir() for line in path.read_bytes().splitlines()):
        call = re.match(rb"(\w+)\(\d+<(.*?)>, (.*)", line)
        if call is None:
            continue
        name, target, rest = call.groups()
        data = b"".join(
            bytes.fromhex(part.replace(b"\\x", b"").decode()) for part in re.findall(rb'"((?:\\x..)*)"', rest)
        )
        sent += len(data)
        if name == b"connect" and b"sin_port" in rest:
            connected |= set(re.findall(rb"htons\((\d+)\)", rest))
        found = {what for what, mark in wanted.items() if mark in data}
        if found:
            assert target.startswith((b"TCP", b"\\x54\\x43\\x50")), (found, line[:300])
            assert found <= {"output", "id"}, found
            answered.add(target.decode())
    assert sent > 10_000
    assert connected == {place.mqtt.address.rpartition(":")[2].encode()}
    # The relay's two connections to the agent from the marked caller: Triton's client and the stream.
    assert 1 <= len(answered) <= 2


@pytest.mark.skipif(
    Path("/proc/sys/kernel/core_pattern").read_text().strip() != "core", reason="core files go elsewhere"
)
def test_an_agent_that_crashes_leaves_no_core_where_another_process_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("this account may leave no core files")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        monkeypatch.chdir(tmp_path)
        subprocess.run([sys.executable, "-c", "import os; os.abort()"], check=False)
        assert [path.unlink() for path in tmp_path.glob("core*")]
        with Served(tmp_path) as served:
            served.process.send_signal(signal.SIGABRT)
            served.process.communicate(timeout=60)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert served.process.returncode == -signal.SIGABRT
    assert list(tmp_path.glob("core*")) == []


def test_audit_prints_the_allow_list_of_telemetry() -> None:
    from hyle_agent.telemetry.metrics import audit_rows
    from test_agent_command import hyle

    said = hyle("audit")
    assert said.returncode == 0
    assert all(name in said.stdout for _, name, *_ in audit_rows())
