"""What reads bytes from outside: each target takes any bytes and answers, or refuses with a remedy."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from hyle_agent.engine import Call, Method, parse
from hyle_agent.inference import arrays_of, prepare
from hyle_agent.models import Loaded, Model, Models
from hyle_agent.slots import ModelState
from hyle_agent.telemetry.session import asks_for_rebirth
from hyle_agent.tiles import Span
from hyle_bundle import TensorFile, open_bundle
from hyle_bundle.manifest import Golden, Manifest, TensorInfo, decode_manifest
from hyle_bundle.signature import SignatureError, verify_envelope
from hyle_errors import CallerError
from hyle_protos.inference import inference_pb2 as pb
from hyle_substrates.profile import decode_profile

__all__ = ["MANIFEST", "TARGETS"]

_SHAPES = (("x", "FP32", (-1, 4)), ("n", "INT8", (-1,)), ("s", "BYTES", (-1, 2)))


MANIFEST = Manifest(
    format="hyle-bundle/1",
    name="m",
    version="1",
    counter=1,
    compiler="fuzz",
    seed=0,
    source_sha256="0" * 64,
    target="ideal",
    substrate="ideal",
    compensation="none",
    inputs=(TensorInfo("x", "FP32", (-1, 4)),),
    outputs=(TensorInfo("y", "FP32", (-1, 3)),),
    layers=(),
    steps=(),
    golden=Golden(0, 0.0, ""),
    files={},
)


def _models(manifest: Manifest) -> Models:
    models, model = Models(), Model("m", ModelState())
    model.serving = Loaded("d" * 64, manifest, None, Span(0, 0), "digital")  # type: ignore[arg-type]
    models.put(model)
    return models


_SEVERAL = msgspec.structs.replace(MANIFEST, inputs=tuple(TensorInfo(*shape) for shape in _SHAPES))
_SERVED = (_models(MANIFEST), _models(_SEVERAL))


async def _never(request: object, call: Call) -> None:
    raise NotImplementedError


_INFER = Method(pb.ModelInferRequest, pb.ModelInferResponse, _never)


def request(data: bytes) -> None:
    """A request's message, all the way to arrays."""
    for models in _SERVED:
        with contextlib.suppress(CallerError):
            arrays_of([prepare(parse(_INFER, data), models)])


def manifest(data: bytes) -> None:
    """`bundle.json`."""
    with contextlib.suppress(CallerError):
        decode_manifest(data)


def signature(data: bytes) -> None:
    """`signature.dsse.json`."""
    with contextlib.suppress(SignatureError):
        verify_envelope(data, None)


def bundle(data: bytes) -> None:
    """A whole bundle file: the zip, the manifest, and tensors' headers."""
    with _file(data, ".hyle") as path, contextlib.suppress(CallerError), open_bundle(path):
        pass


def tensors(data: bytes) -> None:
    """A safetensors file, down to every tensor of it."""
    with contextlib.suppress(CallerError):
        file = TensorFile(data)
        for name in file.names:
            file.array(name)


def profile(data: bytes) -> None:
    """A profile's TOML."""
    with contextlib.suppress(CallerError):
        decode_profile(data)


def command(data: bytes) -> None:
    """A Sparkplug command from the broker."""
    asks_for_rebirth(data)


@contextlib.contextmanager
def _file(data: bytes, suffix: str):  # type: ignore[no-untyped-def]
    handle, name = tempfile.mkstemp(suffix=suffix)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    try:
        yield Path(name)
    finally:
        Path(name).unlink()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "request": request,
    "manifest": manifest,
    "signature": signature,
    "bundle": bundle,
    "tensors": tensors,
    "profile": profile,
    "command": command,
}
