"""The servers that `bench_serving.py` compares: this project's agent, Triton and MLServer, with one model each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnx
from hyle_agent.initial import write_initial
from hyle_protos.inference import inference_pb2 as pb
from hyle_protos.inference import inference_pb2_grpc
from onnx import TensorProto, helper, numpy_helper

import hyle

__all__ = [
    "PEERS",
    "Certificates",
    "Model",
    "Server",
    "lenet",
    "mlp",
    "request",
    "start_agent",
    "start_mlserver",
    "start_triton",
]

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"
START_S = 60.0


@dataclass
class Certificates:
    """A server's certificate, its key, and the authority that made it."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        write_initial(folder)
        certs = folder / "certs"
        return cls(certs / "agent.crt", certs / "agent.key", certs / "authority.crt")


@dataclass
class Server:
    name: str
    address: str
    process: subprocess.Popen[bytes]
    tls: Certificates | None = None

    def channel(self) -> grpc.Channel:
        if self.tls is None:
            return grpc.insecure_channel(self.address)
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.tls.authority.read_bytes()))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


@dataclass
class Model:
    name: str
    onnx: Path
    bundle: Path
    profile: str
    x: np.ndarray
    input: str


def mlp(folder: Path) -> Model:
    """784→64→10 on the ideal substrate: the agent runs it in onnxruntime as the peers do."""
    random = np.random.default_rng(0)
    weights = [(random.normal(size=s) / s[0] ** 0.5).astype(np.float32) for s in ((784, 64), (64, 10))]
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    nodes.append(helper.make_node("MatMul", ["b", "w1"], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 784])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])
    stored = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "mlp", [x], [y], stored)
    path, calib = folder / "mlp.onnx", folder / "mlp.npz"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    values = random.random((64, 784), dtype=np.float32)
    np.savez(calib, x=values)
    return finished("mlp", path, calib, "ideal", folder, values, "x")


def lenet(folder: Path, copies: int | None = None) -> Model:
    """LeNet-5 on the twin of `pcm-hermes`, with as many copies of a weight as there is room for, or with `copies`."""
    data = ROOT / "hyle" / "demo_data" / "mnist_lenet5"
    with np.load(data / "calib.npz") as arrays:
        name = next(key for key in arrays.files if key != "labels")
        values = arrays[name].astype(np.float32)
    return finished("mnist_lenet5", data / "model.onnx", data / "calib.npz", "pcm-hermes", folder, values, name, copies)


def finished(
    name: str,
    path: Path,
    calib: Path,
    profile: str,
    folder: Path,
    x: np.ndarray,
    input_: str,
    copies: int | None = None,
) -> Model:
    bundle = folder / f"{name}.hyle"
    hyle.compile(path, target=profile, calib=calib, output=bundle, name=name, instances=1, copies=copies)
    if profile != "ideal":  # the peers serve the same twin, noise included: the bundle's own program in onnxruntime
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(folder / "opened")
        path = folder / "opened" / "program.onnx"
    return Model(name, path, bundle, profile, x, input_)


def request(model: Model) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model.name)
    made.inputs.add(name=model.input, datatype="FP32", shape=[1, *model.x.shape[1:]])
    made.raw_input_contents.append(model.x[:1].tobytes())
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})


def start_agent(model: Model, folder: Path, engine: str, name: str, tls: Certificates | None) -> Server:
    port = free_port()
    table = f'[tls]\ncertificate = "{tls.certificate}"\nkey = "{tls.key}"\n' if tls else ""
    (folder / f"{name}.toml").write_text(f'engine = "{engine}"\nself_test_interval_s = 0.0\n{table}')
    command = [sys.executable, "-m", "hyle", "agent", "run", "--config", str(folder / f"{name}.toml"), "--insecure"]
    command += ["--listen", f"127.0.0.1:{port}", "--store", str(folder / name), "--profile", model.profile]
    server = Server(name, f"127.0.0.1:{port}", run(command, folder / f"{name}.log"), tls)
    until(lambda: alive(server), server)
    with connect(server) as client:
        client.deploy(model.bundle)
    return server


def connect(server: Server) -> hyle.Client:
    return hyle.connect(server.address, ca=server.tls.authority) if server.tls else hyle.connect(server.address)


def alive(server: Server) -> bool:
    with connect(server) as client:
        client.status()
    return True


def start_triton(model: Model, folder: Path, tls: Certificates | None) -> Server | str:
    python = PEERS / "triton" / "bin" / "python"
    if not python.exists():
        return "peers/triton is not installed"
    found = [
        python,
        "-c",
        "import pytriton, sys; print(pytriton.__path__[0], f'{sys.version_info[0]}.{sys.version_info[1]}')",
    ]
    home, version = subprocess.run(found, capture_output=True, text=True, check=True).stdout.split()
    triton = Path(home) / "tritonserver"
    stub = "triton_python_backend_stub"
    shutil.copy(triton / "python_backend_stubs" / version / stub, triton / "backends" / "python" / stub)
    place = folder / "triton" / model.name
    (place / "1").mkdir(parents=True)
    shutil.copy(PEERS / "triton_model.py", place / "1" / "model.py")
    dims = ", ".join(map(str, model.x.shape[1:]))
    output = onnx.load(model.onnx, load_external_data=False).graph.output[0].name
    (place / "config.pbtxt").write_text(
        f'name: "{model.name}"\nbackend: "python"\nmax_batch_size: 64\ndynamic_batching {{ }}\n'
        f'input [ {{ name: "{model.input}" data_type: TYPE_FP32 dims: [{dims}] }} ]\n'
        f'output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [10] }} ]\n'
        "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    )
    port = free_port()
    command = [str(triton / "bin" / "tritonserver"), "--model-repository", str(place.parent), "--grpc-port", str(port)]
    command += ["--grpc-address", "127.0.0.1", "--allow-http", "false", "--allow-metrics", "false"]
    command += ["--backend-directory", str(triton / "backends")]
    if tls:
        command += ["--grpc-use-ssl", "1", "--grpc-server-cert", str(tls.certificate)]
        command += ["--grpc-server-key", str(tls.key), "--grpc-root-cert", str(tls.authority)]
    libraries = str(Path(home).parent / "nvidia_pytriton.libs")
    path = f"{python.parent}:{os.environ['PATH']}"
    environment = {"BENCH_MODEL": str(model.onnx), "LD_LIBRARY_PATH": libraries, "PATH": path}
    server = Server("Triton", f"127.0.0.1:{port}", run(command, folder / "triton.log", **environment), tls)
    until(lambda: answers(server, model), server)
    return server


def start_mlserver(model: Model, folder: Path, tls: Certificates | None, *, lean: bool = False) -> Server | str:
    """MLServer as it comes, or lean: in one process and without its debugging log."""
    if tls:
        return "MLServer 1.7 has no TLS on gRPC"
    command = PEERS / "mlserver" / "bin" / "mlserver"
    if not command.exists():
        return "peers/mlserver is not installed"
    name = "MLServer, lean" if lean else "MLServer"
    place, port = folder / name.replace(", ", "-").lower(), free_port()
    place.mkdir()
    shutil.copy(PEERS / "mlserver_model.py", place)
    settings = {"host": "127.0.0.1", "http_port": free_port(), "grpc_port": port, "metrics_port": free_port()}
    settings |= {"parallel_workers": 0, "debug": False} if lean else {}
    (place / "settings.json").write_text(json.dumps(settings))
    (place / "model-settings.json").write_text(
        json.dumps({"name": model.name, "implementation": "mlserver_model.OnnxModel"})
    )
    environment = {"BENCH_MODEL": str(model.onnx), "PYTHONPATH": str(place)}
    process = run([str(command), "start", str(place)], place / "mlserver.log", **environment)
    server = Server(name, f"127.0.0.1:{port}", process)
    until(lambda: answers(server, model), server)
    return server


def answers(server: Server, model: Model) -> bool:
    with server.channel() as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        return bool(stub.ModelInfer(request(model), timeout=5).outputs)


def until(works: Callable[[], object], server: Server) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.process.poll() is None:
        try:
            if works():
                return
        except Exception:
            time.sleep(0.3)
    raise SystemExit(f"{server.name} did not start; its log lies beside its files.")
