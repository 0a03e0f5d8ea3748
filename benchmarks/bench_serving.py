"""Requests a second, latency and processor time a request of the agent beside Triton and MLServer, interleaved.

Batch 1, raw contents, full validation. Needs `h2load` (Debian's nghttp2-client); peers/README.md says how to get the
peers.

Run: python benchmarks/bench_serving.py [--rounds N] [--requests N] [--model mlp|mnist_lenet5]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnx
from hyle_protos.inference import inference_pb2 as pb
from hyle_protos.inference import inference_pb2_grpc
from onnx import TensorProto, helper, numpy_helper

import hyle
from hyle.console import Console

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"
METHOD = "inference.GRPCInferenceService/ModelInfer"
START_S = 60.0
CALLS = (1, 8, 32)


@dataclass
class Server:
    name: str
    address: str
    process: subprocess.Popen[bytes]

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


def lenet(folder: Path) -> Model:
    data = ROOT / "hyle" / "demo_data" / "mnist_lenet5"
    with np.load(data / "calib.npz") as arrays:
        name = next(key for key in arrays.files if key != "labels")
        values = arrays[name].astype(np.float32)
    return finished("mnist_lenet5", data / "model.onnx", data / "calib.npz", "pcm-hermes", folder, values, name)


def finished(name: str, path: Path, calib: Path, profile: str, folder: Path, x: np.ndarray, input_: str) -> Model:
    bundle = folder / f"{name}.hyle"
    hyle.compile(path, target=profile, calib=calib, output=bundle, name=name, instances=1)
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


def start_agent(model: Model, folder: Path, engine: str, name: str) -> Server:
    port = free_port()
    (folder / f"{name}.toml").write_text(f'engine = "{engine}"\nself_test_interval_s = 0.0\n')
    command = [sys.executable, "-m", "hyle", "agent", "run", "--config", str(folder / f"{name}.toml"), "--insecure"]
    command += ["--listen", f"127.0.0.1:{port}", "--store", str(folder / name), "--profile", model.profile]
    server = Server(name, f"127.0.0.1:{port}", run(command, folder / f"{name}.log"))
    until(lambda: alive(server), server)
    with hyle.connect(server.address) as client:
        client.deploy(model.bundle)
    return server


def alive(server: Server) -> bool:
    with hyle.connect(server.address) as client:
        client.status()
    return True


def start_triton(model: Model, folder: Path) -> Server | str:
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
    libraries = str(Path(home).parent / "nvidia_pytriton.libs")
    path = f"{python.parent}:{os.environ['PATH']}"
    environment = {"BENCH_MODEL": str(model.onnx), "LD_LIBRARY_PATH": libraries, "PATH": path}
    server = Server("Triton", f"127.0.0.1:{port}", run(command, folder / "triton.log", **environment))
    until(lambda: answers(server, model), server)
    return server


def start_mlserver(model: Model, folder: Path) -> Server | str:
    command = PEERS / "mlserver" / "bin" / "mlserver"
    if not command.exists():
        return "peers/mlserver is not installed"
    place, port = folder / "mlserver", free_port()
    place.mkdir()
    shutil.copy(PEERS / "mlserver_model.py", place)
    settings = {"host": "127.0.0.1", "http_port": free_port(), "grpc_port": port, "parallel_workers": 0}
    settings |= {"metrics_port": free_port(), "debug": False, "load_models_at_startup": True}
    (place / "settings.json").write_text(json.dumps(settings))
    (place / "model-settings.json").write_text(
        json.dumps({"name": model.name, "implementation": "mlserver_model.OnnxModel"})
    )
    environment = {"BENCH_MODEL": str(model.onnx), "PYTHONPATH": str(place)}
    process = run([str(command), "start", str(place)], folder / "mlserver.log", **environment)
    server = Server("MLServer", f"127.0.0.1:{port}", process)
    until(lambda: answers(server, model), server)
    return server


def answers(server: Server, model: Model) -> bool:
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        return bool(stub.ModelInfer(request(model), timeout=5).outputs)


def until(works: object, server: Server) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.process.poll() is None:
        try:
            if works():  # type: ignore[operator]
                return
        except Exception:
            time.sleep(0.3)
    raise SystemExit(f"{server.name} did not start; its log lies beside its files.")


def cpu_s(root: int) -> float:
    """Processor time of a process and those it started."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        stats[int(path.parent.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    tree = {root}
    for _ in range(4):
        tree |= {pid for pid, (parent, _) in stats.items() if parent in tree}
    return sum(stats[pid][1] for pid in tree if pid in stats) / os.sysconf("SC_CLK_TCK")


def h2load(server: Server, body: Path, calls: int, total: int, log: Path) -> dict[str, float]:
    log.unlink(missing_ok=True)
    command = [
        "h2load",
        "-n",
        str(total),
        "-c",
        "1",
        "-m",
        str(calls),
        "-t",
        "1",
        "-d",
        str(body),
        "--log-file",
        str(log),
    ]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{server.address}/{METHOD}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    if done is None or f"{total} succeeded" not in said:
        raise SystemExit(f"h2load against {server.name}: {said}")
    micros = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    return {
        "per_s": float(done[1]),
        "p50_ms": micros[len(micros) // 2] / 1e3,
        "p99_ms": micros[len(micros) * 99 // 100] / 1e3,
    }


def client(server: Server, message: Path, calls: int, total: int) -> dict[str, float]:
    command = [sys.executable, str(PEERS / "load_client.py"), server.address, str(message), str(calls), str(total)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure(servers: list[Server], model: Model, folder: Path, rounds: int, total: int) -> list[list[object]]:
    message, body, log = folder / "message", folder / "body", folder / "h2load.log"
    message.write_bytes(request(model).SerializeToString())
    raw = message.read_bytes()
    body.write_bytes(b"\0" + struct.pack(">I", len(raw)) + raw)
    found: dict[tuple[str, int, str], list[dict[str, float]]] = defaultdict(list)
    for turn in range(rounds + 1):
        for calls in CALLS:
            count = total * min(calls, 4)
            for server in servers:
                before = cpu_s(server.process.pid)
                one = h2load(server, body, calls, count, log)
                one["cpu_us"] = (cpu_s(server.process.pid) - before) / count * 1e6
                other = client(server, message, calls, count // 2)
                if turn:  # the first round warms up
                    found[server.name, calls, "h2load"].append(one)
                    found[server.name, calls, "client"].append(other)
    rows: list[list[object]] = []
    for (name, calls, source), runs in sorted(found.items(), key=lambda item: (item[0][2], item[0][1])):
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        rows.append(
            [
                source,
                calls,
                name,
                f"{middle['per_s']:.0f}",
                f"{middle['p50_ms']:.2f}",
                f"{middle['p99_ms']:.2f}",
                f"{middle['cpu_us']:.0f}" if "cpu_us" in middle else "",
            ]
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--model", choices=["mlp", "mnist_lenet5", "both"], default="both")
    args = parser.parse_args()
    if shutil.which("h2load") is None:
        print("bench_serving: left out, h2load is not installed (Debian: nghttp2-client)", file=sys.stderr)
        return 0
    for name, make in {"mlp": mlp, "mnist_lenet5": lenet}.items():
        if args.model in {name, "both"}:
            with tempfile.TemporaryDirectory() as folder:
                compare(make(Path(folder)), Path(folder), args.rounds, args.requests)
    return 0


def compare(model: Model, folder: Path, rounds: int, total: int) -> None:
    servers: list[Server] = []
    try:
        servers.append(start_agent(model, folder, "completion-queue", "hyle"))
        servers.append(start_agent(model, folder, "aio", "hyle (aio engine)"))
        for start in (start_triton, start_mlserver):
            made = start(model, folder)
            if isinstance(made, str):
                print(f"left out: {made}", file=sys.stderr)
            else:
                servers.append(made)
        rows = measure(servers, model, folder, rounds, total)
    finally:
        for server in servers:
            server.stop()
    title = f"{model.name}, batch 1, medians of {rounds} interleaved rounds"
    Console().table(title, ["load", "in flight", "server", "requests/s", "p50 ms", "p99 ms", "CPU µs/request"], rows)


if __name__ == "__main__":
    sys.exit(main())
