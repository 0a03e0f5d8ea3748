"""A small agent behind a real gRPC server on loopback: it keeps blobs, slots and answers y = x W."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hyle_bundle import Manifest, decode_manifest, write_bundle
from hyle_bundle.manifest import Golden, TensorInfo
from hyle_deploy.client import Client, connect
from hyle_protos.control import control_pb2 as control
from hyle_protos.control import control_pb2_grpc
from hyle_protos.inference import inference_pb2 as oip
from hyle_protos.inference import inference_pb2_grpc

WEIGHTS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)


class FakeAgent(control_pb2_grpc.ControlServicer, inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Keeps the contract of control.proto in memory; `failures` makes the next calls of a name fail."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.installed: dict[str, str] = {}
        self.active: list[str] = []
        self.calls: list[str] = []
        self.chunk_sizes: list[int] = []
        self.failures: dict[str, list[tuple[grpc.StatusCode, str]]] = {}
        self.break_after_blobs: int | None = None
        self.answer: Callable[[oip.ModelInferRequest], oip.ModelInferResponse] = self._multiply
        self.remedy = ""
        self.ask_for: list[str] | None = None
        self.install_as: str | None = None

    def _enter(self, name: str, context: grpc.ServicerContext) -> None:
        self.calls.append(name)
        if self.remedy:
            context.set_trailing_metadata((("hyle-remedy-bin", self.remedy.encode()),))
        if self.failures.get(name):
            code, details = self.failures[name].pop(0)
            context.abort(code, details)

    def Plan(self, request: control.PlanRequest, context: Any) -> control.PlanResponse:
        self._enter("Plan", context)
        files = decode_manifest(request.manifest).files.values()
        missing = [entry.sha256 for entry in files if entry.sha256 not in self.blobs]
        return control.PlanResponse(missing=missing if self.ask_for is None else self.ask_for)

    def Upload(self, chunks: Iterator[control.BlobChunk], context: Any) -> control.UploadResponse:
        self._enter("Upload", context)
        parts: dict[str, bytearray] = {}
        sizes: dict[str, int] = {}
        digest = ""
        for chunk in chunks:
            self.chunk_sizes.append(len(chunk.data))
            if chunk.sha256:
                if self.break_after_blobs is not None and len(parts) == self.break_after_blobs:
                    self.break_after_blobs = None
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the cable was pulled")
                digest = chunk.sha256
                parts[digest], sizes[digest] = bytearray(), chunk.size
            parts[digest] += chunk.data
            if len(parts[digest]) == sizes[digest]:
                assert hashlib.sha256(parts[digest]).hexdigest() == digest
                self.blobs[digest] = bytes(parts[digest])
        return control.UploadResponse(blobs=len(parts), bytes=sum(sizes.values()))

    def Install(self, request: control.InstallRequest, context: Any) -> control.InstallResponse:
        self._enter("Install", context)
        manifest = decode_manifest(request.manifest)
        assert all(entry.sha256 in self.blobs for entry in manifest.files.values())
        digest = hashlib.sha256(request.manifest).hexdigest()
        self.installed[digest] = manifest.version
        report = control.SelfTestReport(passed=True, residual=0.01, tolerance=0.1, at=5.0)
        return control.InstallResponse(
            model=manifest.name, slot="ab"[len(self.installed) % 2], digest=self.install_as or digest, self_test=report
        )

    def Activate(self, request: control.ActivateRequest, context: Any) -> control.ActivateResponse:
        self._enter("Activate", context)
        assert request.digest in self.installed
        self.active.append(request.digest)
        return control.ActivateResponse(slot="a")

    def Rollback(self, request: control.RollbackRequest, context: Any) -> control.RollbackResponse:
        self._enter("Rollback", context)
        if len(self.active) < 2:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"Model {request.model!r} has no previous slot.")
        self.active.pop()
        return control.RollbackResponse(slot="a", version=self.installed[self.active[-1]])

    def SelfTest(self, request: control.SelfTestRequest, context: Any) -> control.SelfTestResponse:
        self._enter("SelfTest", context)
        return control.SelfTestResponse(
            report=control.SelfTestReport(passed=False, residual=0.3, tolerance=0.1, at=7.0)
        )

    def Status(self, request: control.StatusRequest, context: Any) -> control.StatusResponse:
        self._enter("Status", context)
        device = control.DeviceStatus(
            driver="twin", identity="twin-1", profile="ideal", simulated=True, tiles=4, tiles_used=1
        )
        device.health["age_s"] = 2.5
        slots = [
            control.SlotStatus(slot="a", version=version, digest=digest) for digest, version in self.installed.items()
        ]
        model = control.ModelStatus(
            name="linear", slots=slots, active="a", ready=True, reason="rolled back from version 2"
        )
        return control.StatusResponse(node="bench", agent_version="0.1.0", uptime_s=3.0, device=device, models=[model])

    def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Any) -> oip.ModelMetadataResponse:
        self._enter("ModelMetadata", context)
        if request.name != "linear":
            context.abort(grpc.StatusCode.NOT_FOUND, f"No model {request.name!r} is installed.")
        response = oip.ModelMetadataResponse(name="linear", versions=["1"], platform="hyle")
        response.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
        response.outputs.add(name="y", datatype="FP32", shape=[-1, 3])
        return response

    def ModelInfer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:
        self._enter("ModelInfer", context)
        return self.answer(request)

    def _multiply(self, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
        x = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tuple(request.inputs[0].shape))
        y = (x @ WEIGHTS).astype(np.float32)
        response = oip.ModelInferResponse(model_name=request.model_name, raw_output_contents=[y.tobytes()])
        response.outputs.add(name="y", datatype="FP32", shape=y.shape)
        return response


class Authority:
    """Signs certificates for 127.0.0.1 and writes them as PEM."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.cert = self._sign(self.key.public_key(), name, ca=True)
        self.pem = self._write("ca", self.cert.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._sign(key.public_key(), name, ca=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._write(name, cert.public_bytes(serialization.Encoding.PEM)), self._write(f"{name}-key", private)

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / f"{self.name}-{name}.pem"
        path.write_bytes(data)
        return path

    def _sign(self, public: ec.EllipticCurvePublicKey, name: str, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject, issuer = (
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, self.name)
        )
        builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
            now + datetime.timedelta(hours=1)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return builder.add_extension(names, critical=False).sign(self.key, hashes.SHA256())


def serve(agent: FakeAgent, credentials: grpc.ServerCredentials | None = None) -> tuple[grpc.Server, int]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    control_pb2_grpc.add_ControlServicer_to_server(agent, server)
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(agent, server)
    port = (
        server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    )
    server.start()
    return server, port


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def address(agent: FakeAgent) -> Iterator[str]:
    server, port = serve(agent)
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with connect(address, timeout_s=10.0) as client:
        yield client


@pytest.fixture
def serving(agent: FakeAgent) -> Iterator[Callable[[grpc.ServerCredentials], str]]:
    with ExitStack() as stack:

        def start(credentials: grpc.ServerCredentials) -> str:
            server, port = serve(agent, credentials)
            stack.callback(lambda: server.stop(0).wait())
            return f"127.0.0.1:{port}"

        yield start


@pytest.fixture
def weights() -> np.ndarray:
    return WEIGHTS


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle: `bundle(version, **files)`."""

    def write(version: str = "1", files: dict[str, bytes] | None = None) -> Path:
        manifest = Manifest(
            format="hyle-bundle/1",
            name="linear",
            version=version,
            counter=1,
            compiler="test",
            seed=0,
            source_sha256="0" * 64,
            target="ideal",
            substrate="ideal",
            compensation="none",
            inputs=(TensorInfo("x", "FP32", (-1, 4)),),
            outputs=(TensorInfo("y", "FP32", (-1, 3)),),
            layers=(),
            steps=(),
            golden=Golden(1, 0.1, "test"),
            files={},
        )
        path = tmp_path / f"linear-{version}.hyle"
        write_bundle(path, manifest, files or {"program.onnx": b"graph " * 100, "golden.safetensors": version.encode()})
        return path

    return write


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")
