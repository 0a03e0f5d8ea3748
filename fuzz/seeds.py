"""A sound input of each target, to start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hyle_bundle import TensorSpec, generate_key, load_private_key, open_bundle, write_bundle, write_tensors
from hyle_bundle.manifest import encode_manifest
from hyle_protos.inference import inference_pb2 as pb
from hyle_substrates import profile
from targets import MANIFEST

__all__ = ["seeds"]


def seeds(folder: Path) -> dict[str, bytes]:
    """Return one sound input of each target, made in an empty folder."""
    generate_key("me", folder)
    path = folder / "m.hyle"
    files: dict[str, bytes | Path] = {"segments/0.onnx": b"weights", "report.json": b"{}"}
    write_bundle(path, MANIFEST, files, load_private_key(folder / "me.key"))
    request = pb.ModelInferRequest(model_name="m", id="1", raw_input_contents=[b"\0" * 16])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    with open_bundle(path) as bundle:
        signature = bytes(bundle.signature_bytes or b"")
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.arange(4, dtype=np.int8)}
    write_tensors(folder / "t.safetensors", [(TensorSpec.of(name, array), array) for name, array in arrays.items()])
    profiles = Path(profile.__file__).parent / "profiles"
    return {
        "request": request.SerializeToString(),
        "manifest": encode_manifest(MANIFEST),
        "signature": signature,
        "bundle": path.read_bytes(),
        "tensors": (folder / "t.safetensors").read_bytes(),
        "profile": (profiles / "pcm-hermes.toml").read_bytes(),
        "command": b"\x08\x01\x12\x1a\x0a\x14Node Control/Rebirth\x20\x0b\x70\x01",
    }
