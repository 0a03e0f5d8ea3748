"""A program without physics (y = x W from the bundle's own files), bundles for it, and an agent around it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from hyle_agent.agent import Agent
from hyle_agent.config import Config, DriverConfig
from hyle_bundle import Bundle, PrivateKey, open_bundle, write_bundle
from hyle_bundle.manifest import Golden, Manifest, Step, TensorInfo
from hyle_errors import CallerError
from hyle_protos.control import control_pb2 as pb
from hyle_protos.control import control_pb2_grpc
from hyle_substrates.driver import Driver
from hyle_substrates.twin import connect

ROWS, COLS = 4, 3
LARGEST = 1e30
ENGINE = ["auto"]
# Suites of whatever speaks gRPC: they run on both engines.
ON_BOTH = ("batching", "serving", "malformed_requests", "control", "lifecycle", "tls")
TWIN = {"profile": "pcm-hermes", "seed": "0"}

connect_twin = connect


def weights(version: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(version).normal(size=(ROWS, COLS)).astype(np.float32)


def manifest_of(name: str, version: int, counter: int | None = None) -> Manifest:
    return Manifest(
        format="hyle-bundle/1",
        name=name,
        version=str(version),
        counter=version if counter is None else counter,
        compiler="test",
        seed=0,
        source_sha256="0" * 64,
        target="pcm-hermes",
        substrate="pcm",
        compensation="none",
        inputs=(TensorInfo("x", "FP32", (-1, ROWS)),),
        outputs=(TensorInfo("y", "FP32", (-1, COLS)), TensorInfo("largest", "INT64", (-1,))),
        layers=(),
        steps=(Step("segments/0.bin", ("x",), ("y", "largest"), ()),),
        golden=Golden(4, 0.01, "test"),
        files={},
    )


def make_bundle(
    folder: Path,
    version: int = 1,
    *,
    name: str = "small",
    counter: int | None = None,
    healthy: bool = True,
    key: PrivateKey | None = None,
    padding: int = 1000,
) -> Path:
    """Write a bundle whose weights follow from `version`; an unhealthy one fails its self-test."""
    path = folder / f"{name}-{version}-{healthy}-{'signed' if key else 'plain'}.hyle"
    golden = {"x": [[1.0] * ROWS], "y": (weights(version).sum(0) + (0.0 if healthy else 1.0)).tolist()}
    files: dict[str, bytes | Path] = {
        "segments/0.bin": weights(version).tobytes(),
        "golden.json": json.dumps(golden).encode(),
        "shared.bin": b"the same in every version" * 40,
        "padding.bin": np.random.default_rng(version).bytes(padding),
    }
    write_bundle(path, manifest_of(name, version, counter), files, key)
    return path


@dataclass(frozen=True)
class FakeSelfTest:
    passed: bool
    residual: float
    tolerance: float
    fault: str = ""


@dataclass
class FakeProgram:
    """Implements `Program`; `sick` makes its self-test fail until it is recalibrated."""

    directory: Path
    manifest: Manifest
    driver: Driver
    gate: threading.Event
    calls: list[str]
    tiles: int = 0
    shared: bool = False
    crowded: bool = False
    sick: int = 0
    closed: bool = False
    matrix: np.ndarray[Any, Any] = field(init=False)

    def __post_init__(self) -> None:
        raw = (self.directory / self.manifest.steps[0].segment).read_bytes()
        self.matrix = np.frombuffer(raw, np.float32).reshape(ROWS, COLS)

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        assert not self.closed
        self.calls.append(f"run {self.manifest.version}")
        self.gate.wait()
        x = inputs["x"]
        if np.abs(x).max() > LARGEST:
            raise CallerError("Input 'x': a value is larger than the DAC can say.", remedy="Scale the input.")
        if (x == 13.0).all():
            raise ZeroDivisionError("secret 13.0")
        y = x @ self.matrix
        return {"y": y, "largest": y.argmax(1)}

    def self_test(self) -> FakeSelfTest:
        self.calls.append(f"self_test {self.manifest.version}")
        golden = json.loads((self.directory / "golden.json").read_text())
        residual = float(np.abs(np.asarray(golden["x"]) @ self.matrix - np.asarray(golden["y"])).max()) + self.sick
        return FakeSelfTest(residual <= 0.01, residual, 0.01)

    def recalibration(self) -> Iterator[None]:
        yield
        self.calls.append(f"recalibrate {self.manifest.version}")
        self.sick = max(0, self.sick - 1)

    def energy_j(self, samples: int) -> float:
        return samples * 1e-6

    def close(self) -> None:
        self.closed = True


class FakeExecutor:
    """`load` for an agent; keeps the programs that it made. Clearing `gate` holds the device up."""

    def __init__(self) -> None:
        self.programs: list[FakeProgram] = []
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Exception | None = None

    def __call__(self, directory: Path, manifest: Manifest, driver: Driver, *, threads: int) -> FakeProgram:
        if self.fail is not None:
            raise self.fail
        self.programs.append(FakeProgram(directory, manifest, driver, self.gate, self.calls))
        return self.programs[-1]


@dataclass
class Running:
    """An agent in a thread of its own, on an ephemeral port of loopback."""

    address: str
    agent: Agent
    executor: FakeExecutor
    stop: Callable[[], None]


def config_for(store: Path, **changes: Any) -> Config:
    fields = {
        "node": "n",
        "listen": "127.0.0.1:0",
        "insecure": True,
        "self_test_interval_s": 0.0,
        "watch_s": 0.0,
        "drain_s": 5.0,
        "engine": ENGINE[0],
    }
    return Config(store=str(store), driver=DriverConfig("twin", dict(TWIN)), **{**fields, **changes})


class RealExecutor(FakeExecutor):
    """The agent's own `load`."""

    def __call__(self, directory: Path, manifest: Manifest, driver: Driver, *, threads: int) -> Any:
        from hyle_agent.executor import load

        return load(directory, manifest, driver, threads=threads)


@contextmanager
def running(
    config: Config,
    executor: FakeExecutor | None = None,
    connect: Callable[[Mapping[str, str]], Driver] | None = None,
) -> Iterator[Running]:
    executor = executor or FakeExecutor()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    agent = Agent(config, load=executor, connect=connect or connect_twin)
    stopped = threading.Event()

    def stop() -> None:
        if not stopped.is_set():
            stopped.set()
            asyncio.run_coroutine_threadsafe(agent.stop(), loop).result(30)

    try:
        address = asyncio.run_coroutine_threadsafe(agent.start(), loop).result(30)
        yield Running(address, agent, executor, stop)
    finally:
        executor.gate.set()
        stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Operator:
    """The control calls that a deployment makes, over a real channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = control_pb2_grpc.ControlStub(channel)

    def plan(self, bundle: Bundle) -> list[str]:
        request = pb.PlanRequest(manifest=bundle.manifest_bytes, signature=bundle.signature_bytes or b"")
        return list(self.stub.Plan(request).missing)

    def upload(self, bundle: Bundle, wanted: list[str]) -> pb.UploadResponse:
        return self.stub.Upload(chunks(bundle, wanted))

    def install(self, path: Path) -> pb.InstallResponse:
        with open_bundle(path) as bundle:
            self.upload(bundle, self.plan(bundle))
            request = pb.InstallRequest(manifest=bundle.manifest_bytes, signature=bundle.signature_bytes or b"")
            return self.stub.Install(request)

    def deploy(self, path: Path) -> pb.InstallResponse:
        installed = self.install(path)
        self.stub.Activate(pb.ActivateRequest(model=installed.model, digest=installed.digest))
        return installed

    def model(self, name: str = "small") -> pb.ModelStatus:
        return {model.name: model for model in self.stub.Status(pb.StatusRequest()).models}[name]


def chunks(bundle: Bundle, wanted: list[str], step: int = 700) -> Iterator[pb.BlobChunk]:
    names = {entry.sha256: name for name, entry in bundle.manifest.files.items()}
    for digest in wanted:
        content = bytes(bundle.read(names[digest]))
        yield pb.BlobChunk(sha256=digest, size=len(content), data=content[:step])
        for start in range(step, len(content), step):
            yield pb.BlobChunk(data=content[start : start + step])


def debris(store: Path) -> list[str]:
    """Return what lies in a store that no slot needs, or that a slot lacks."""
    found = [f"staging: {path.name}" for path in (store / "staging").iterdir()]
    linked: set[str] = set()
    for model in (store / "models").iterdir():
        state = json.loads((model / "state.json").read_text()) if (model / "state.json").is_file() else {"slots": {}}
        digests = {record["digest"] for record in state["slots"].values()}
        found += [f"{path}" for path in model.iterdir() if path.name not in {*digests, "state.json"}]
        found += [f"empty model {model.name}"] if not digests else []
        for digest in digests:
            found += _slot_faults(model / digest, digest, linked)
    found += [f"blob {path.name}" for path in (store / "blobs").iterdir() if path.name not in linked]
    return found


def _slot_faults(folder: Path, digest: str, linked: set[str]) -> list[str]:
    raw = (folder / "bundle.json").read_bytes()
    files = json.loads(raw)["files"]
    linked |= {entry["sha256"] for entry in files.values()}
    faults = [] if hashlib.sha256(raw).hexdigest() == digest else [f"{folder}: manifest"]
    for name, entry in files.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != entry["sha256"]:
            faults.append(f"{folder / name}: content")
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    strange = present - set(files) - {"bundle.json", "signature.dsse.json"}
    return faults + [f"{folder}: {name}" for name in strange]
