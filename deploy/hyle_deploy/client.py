"""The client of one agent: ask a model, see what runs, install, roll back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from hyle_bundle import open_bundle
from hyle_protos.control import control_pb2 as control
from hyle_protos.control.control_pb2_grpc import ControlStub
from hyle_protos.inference import inference_pb2 as oip
from hyle_protos.inference.inference_pb2_grpc import GRPCInferenceServiceStub

from hyle_deploy.channel import Tls, open_channel
from hyle_deploy.failures import AgentError, translated
from hyle_deploy.records import (
    AgentStatus,
    DeployResult,
    ModelInfo,
    Progress,
    SelfTest,
    agent_status,
    model_info,
    self_test,
)
from hyle_deploy.tensors import Array, read_response, write_request
from hyle_deploy.times import check_seconds
from hyle_deploy.transfer import Sendable, Sent, send_missing

__all__ = ["Client", "connect"]

_INSTALL_TIMEOUT_S = 600.0


def _silent(progress: Progress) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class _Calls:
    """Plan and Upload with their deadlines."""

    stub: ControlStub
    timeout_s: float
    upload_timeout_s: float

    def plan(self, request: control.PlanRequest) -> control.PlanResponse:
        answer: control.PlanResponse = self.stub.Plan(request, timeout=self.timeout_s)
        return answer

    def upload(self, chunks: Iterator[control.BlobChunk]) -> control.UploadResponse:
        answer: control.UploadResponse = self.stub.Upload(chunks, timeout=self.upload_timeout_s)
        return answer


class Client:
    """One agent. Safe to use from several threads; close it, or use it as a context manager.

    Args:
        address: The agent's HOST:PORT, for messages.
        channel: An open channel to it.
        timeout_s: Longest wait for a call that changes nothing, in seconds.
        install_timeout_s: Longest wait for an upload, an installation or a self-test, in seconds.
    """

    def __init__(
        self,
        address: str,
        channel: grpc.Channel,
        *,
        timeout_s: float = 30.0,
        install_timeout_s: float = _INSTALL_TIMEOUT_S,
    ) -> None:
        self.address = address
        self.timeout_s = check_seconds("timeout_s", timeout_s)
        self.install_timeout_s = check_seconds("install_timeout_s", install_timeout_s)
        self._channel = channel
        self._control = ControlStub(channel)
        self._inference = GRPCInferenceServiceStub(channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the object is not used again."""
        self._channel.close()

    def infer(
        self, model: str, inputs: Mapping[str, Array], *, version: str = "", outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Ask a model.

        Args:
            model: Its name.
            inputs: One array an input, named like it, samples first.
            version: Version that must answer, "" for the one that serves.
            outputs: Wanted outputs, none for all.

        Returns:
            One array an output, named like it.

        Raises:
            HyleError: The request is refused, or no answer came.
        """
        request = write_request(model, inputs, version=version, outputs=outputs)
        with translated(self.address):
            response = self._inference.ModelInfer(request, timeout=self.timeout_s)
        return read_response(response)

    def metadata(self, model: str, *, version: str = "") -> ModelInfo:
        """Say what a model takes and gives.

        Raises:
            HyleError: There is no such model, or no answer came.
        """
        with translated(self.address):
            return model_info(
                self._inference.ModelMetadata(
                    oip.ModelMetadataRequest(name=model, version=version), timeout=self.timeout_s
                )
            )

    def status(self) -> AgentStatus:
        """Say what the agent runs.

        Raises:
            HyleError: No answer came.
        """
        with translated(self.address):
            return agent_status(self._control.Status(control.StatusRequest(), timeout=self.timeout_s))

    def self_test(self, model: str) -> SelfTest:
        """Run the golden vectors of the serving bundle on the device now.

        Raises:
            HyleError: There is no such model, or the device did not answer.
        """
        with translated(self.address):
            answer = self._control.SelfTest(control.SelfTestRequest(model=model), timeout=self.install_timeout_s)
        return self_test(answer.report)

    def rollback(self, model: str) -> tuple[str, str]:
        """Let the previous bundle serve again; never repeated by itself.

        Returns:
            The slot that serves now and the version in it.

        Raises:
            HyleError: There is no such model or nothing to go back to.
        """
        with translated(self.address):
            answer = self._control.Rollback(control.RollbackRequest(model=model), timeout=self.install_timeout_s)
        return answer.slot, answer.version

    def remove(self, model: str) -> None:
        """Take a model out of service and remove all its versions; never repeated by itself.

        Raises:
            HyleError: There is no such model, or its files cannot be removed.
        """
        with translated(self.address):
            self._control.Remove(control.RemoveRequest(model=model), timeout=self.install_timeout_s)

    def deploy(
        self,
        bundle_path: str | Path,
        *,
        activate: bool = True,
        progress: Callable[[Progress], None] = _silent,
        override: bytes = b"",
    ) -> DeployResult:
        """Install a bundle and let it serve; what serves now goes on until the new one has passed its self-test.

        Args:
            bundle_path: The bundle's file.
            activate: Let it serve once installed; otherwise it waits in its slot.
            progress: Told at each stage and after every chunk of the upload.
            override: An operator's signed leave to install an older bundle (`hyle override`), empty for none.

        Raises:
            HyleError: The bundle is not whole, or the agent refused it; what served before still does.
        """
        with open_bundle(Path(bundle_path)) as bundle:
            progress(Progress("plan"))
            calls = _Calls(self._control, self.timeout_s, self.install_timeout_s)
            sent = send_missing(bundle, calls, self.address, progress, override)
            return self._install(bundle, sent, activate, progress, override)

    def _install(
        self, bundle: Sendable, sent: Sent, activate: bool, progress: Callable[[Progress], None], override: bytes
    ) -> DeployResult:
        progress(Progress("install"))
        request = control.InstallRequest(
            manifest=bundle.manifest_bytes, signature=bundle.signature_bytes or b"", override=override
        )
        with translated(self.address):
            installed = self._control.Install(request, timeout=self.install_timeout_s)
        if installed.digest != bundle.digest:
            raise AgentError(
                f"The agent at {self.address} installed {installed.digest!r}, not {bundle.digest}.",
                remedy="Nothing was activated; look at the agent's log.",
            )
        if activate:
            progress(Progress("activate"))
            with translated(self.address):
                self._control.Activate(
                    control.ActivateRequest(model=installed.model, digest=installed.digest),
                    timeout=self.install_timeout_s,
                )
        return DeployResult(
            model=installed.model,
            version=bundle.manifest.version,
            digest=installed.digest,
            slot=installed.slot,
            activated=activate,
            self_test=self_test(installed.self_test) if installed.HasField("self_test") else None,
            sent_blobs=sent.blobs,
            sent_bytes=sent.size,
            bundle_bytes=sum(entry.size for entry in bundle.manifest.files.values()),
            notice=installed.notice,
        )


def connect(
    address: str,
    *,
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
    tls: bool = False,
    timeout_s: float = 30.0,
    install_timeout_s: float = _INSTALL_TIMEOUT_S,
) -> Client:
    """Connect to an agent; nothing is sent before the first call.

    Args:
        address: HOST:PORT, an IPv6 host in brackets; or unix:PATH.
        ca: PEM file of the authority that signed the agent's certificate; giving it asks for TLS.
        cert: PEM file of the client's own certificate, where the agent asks for one; asks for TLS.
        key: PEM file of its private key; given exactly when `cert` is.
        tls: Ask for TLS with the system's authorities, without any of the files.
        timeout_s: Longest wait for a call that changes nothing, in seconds.
        install_timeout_s: Longest wait for an upload, an installation or a self-test, in seconds.

    Raises:
        AddressError: `address` is neither.
        TlsError: A file cannot be read, or only one of `cert` and `key` is given.
    """
    files = [Path(name) if name is not None else None for name in (ca, cert, key)]
    credentials = Tls(*files) if tls or any(files) else None
    return Client(address, open_channel(address, credentials), timeout_s=timeout_s, install_timeout_s=install_timeout_s)
