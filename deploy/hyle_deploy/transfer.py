"""Moving a bundle's files to an agent: only those it lacks, in chunks, resumed where a connection broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
from hyle_bundle.manifest import FileEntry, Manifest
from hyle_protos.control import control_pb2 as control

from hyle_deploy.failures import AgentError, failure
from hyle_deploy.records import Progress

__all__ = ["CHUNK_BYTES", "Sendable", "Sent", "blob_chunks", "send_missing"]

CHUNK_BYTES = 1 << 20
_ATTEMPTS = 3
_BROKEN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}

Report = Callable[[Progress], None]


class Sendable(Protocol):
    """What an opened bundle must offer."""

    @property
    def manifest(self) -> Manifest:
        """The decoded manifest."""

    @property
    def manifest_bytes(self) -> bytes:
        """`bundle.json`, byte for byte."""

    @property
    def signature_bytes(self) -> bytes | None:
        """The signature file, None for an unsigned bundle."""

    @property
    def digest(self) -> str:
        """SHA-256 of `manifest_bytes`, hexadecimal."""

    def read(self, name: str) -> memoryview:
        """Return a file's content."""


class ControlCalls(Protocol):
    """The two calls that a transfer needs."""

    def plan(self, request: control.PlanRequest) -> control.PlanResponse:
        """Ask which blobs are missing."""

    def upload(self, chunks: Iterator[control.BlobChunk]) -> control.UploadResponse:
        """Send blobs."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a transfer moved."""

    blobs: int
    size: int


def blob_chunks(sha256: str, content: memoryview) -> Iterator[control.BlobChunk]:
    """Yield one blob's messages; only the first carries its digest and size in bytes."""
    yield control.BlobChunk(sha256=sha256, size=len(content), data=bytes(content[:CHUNK_BYTES]))
    for start in range(CHUNK_BYTES, len(content), CHUNK_BYTES):
        yield control.BlobChunk(data=bytes(content[start : start + CHUNK_BYTES]))


def _chunks(
    bundle: Sendable, names: Mapping[str, str], missing: Sequence[str], report: Report
) -> Iterator[control.BlobChunk]:
    total = sum(bundle.manifest.files[names[sha256]].size for sha256 in missing)
    done = 0
    for sha256 in missing:
        for chunk in blob_chunks(sha256, bundle.read(names[sha256])):
            yield chunk
            done += len(chunk.data)
            report(Progress("upload", done, total))


def _known(missing: Sequence[str], names: Mapping[str, str], address: str) -> list[str]:
    strange = sorted(set(missing) - set(names))
    if strange:
        raise AgentError(
            f"The agent at {address} asks for {strange[0]}, which the bundle does not have.",
            remedy="Verify the bundle with `hyle verify` and update the agent.",
        )
    return list(dict.fromkeys(missing))


def _by_digest(files: Mapping[str, FileEntry]) -> dict[str, str]:
    return {entry.sha256: name for name, entry in files.items()}


def send_missing(bundle: Sendable, calls: ControlCalls, address: str, report: Report, override: bytes = b"") -> Sent:
    """Ask what the agent lacks and send that; after a broken connection ask again and send the rest.

    Args:
        bundle: The opened bundle.
        calls: The agent's Plan and Upload; they raise grpc's errors.
        address: The agent's, for messages.
        report: Told after every chunk.
        override: An operator's signed leave to install an older bundle, empty for none.

    Returns:
        Blobs and bytes that the agent kept.

    Raises:
        HyleError: The agent refused, or the connection broke three times.
    """
    names = _by_digest(bundle.manifest.files)
    plan = control.PlanRequest(
        manifest=bundle.manifest_bytes, signature=bundle.signature_bytes or b"", override=override
    )
    needed: list[str] | None = None
    attempt = 1
    while True:
        try:
            missing = _known(calls.plan(plan).missing, names, address)
            needed = missing if needed is None else needed
            if missing:
                calls.upload(_chunks(bundle, names, missing, report))
            return Sent(len(needed), sum(bundle.manifest.files[names[sha256]].size for sha256 in needed))
        except grpc.RpcError as error:
            if error.code() not in _BROKEN or attempt == _ATTEMPTS:
                raise failure(error, address) from error
            attempt += 1
