from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hyle_bundle import Manifest, PrivateKey, TensorSpec, generate_key, load_private_key, write_bundle, write_tensors
from hyle_bundle.manifest import Block, Golden, Layer, Step, TensorInfo, Tile

ROOT = Path(__file__).parents[2]
PEERS = ("model-signing==1.1.1", "pyopenssl", "securesystemslib[crypto]==1.6.0")


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    layer = Layer(
        name="dense",
        op="matmul",
        input="x",
        output="y",
        rows=4,
        cols=3,
        range_mode="static",
        full_scale="dense/full_scale",
        offset="dense/offset",
        noise="dense/noise",
        blocks=(Block(rows=(0, 4), levels="dense/levels", gain="dense/gain"),),
        tiles=(Tile(index=0, block=0, rows=(0, 4), cols=(0, 3)),),
        macs=12,
        probes="dense/probes",
        probe_scales="dense/probe_scales",
        responses="dense/responses",
    )
    return Manifest(
        format="hyle-bundle/1",
        name="lenet",
        version="1.0.0",
        counter=7,
        compiler="hyle 0.1.0",
        seed=0,
        source_sha256="a" * 64,
        target="pcm-hermes",
        substrate="pcm",
        compensation="column",
        inputs=(TensorInfo("x", "FP32", (-1, 4)),),
        outputs=(TensorInfo("y", "FP32", (-1, 3)),),
        layers=(layer,),
        steps=(Step("segments/000.onnx", ("x",), ("y",), ("dense",)),),
        golden=Golden(8, 0.05, "four standard deviations of read noise"),
        files={},
    )


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path | bytes]:
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("files")
    arrays = {
        "dense/levels": rng.integers(-15, 16, (4, 3), dtype=np.int8),
        "dense/gain": rng.normal(size=3).astype(np.float32),
    }
    golden = {"input/x": rng.normal(size=(8, 4)).astype(np.float32), "output/y": rng.normal(size=(8, 3))}
    for name, tensors in (("programming", arrays), ("golden", golden)):
        write_tensors(
            folder / f"{name}.safetensors", [(TensorSpec.of(key, value), value) for key, value in tensors.items()]
        )
    return {
        "program.onnx": rng.bytes(700),
        "twin.onnx": rng.bytes(333),
        "segments/000.onnx": rng.bytes(64),
        "segments/001.onnx": b"",
        "programming.safetensors": folder / "programming.safetensors",
        "golden.safetensors": folder / "golden.safetensors",
        "profile.toml": b'name = "pcm-hermes"\n',
        "report.json": b"{}\n",
        "report.html": b"<!doctype html><title>lenet</title>",
    }


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return load_private_key(generate_key("signer", tmp_path_factory.mktemp("keys")).private)


@pytest.fixture
def bundle_at(
    tmp_path: Path, manifest: Manifest, files: Mapping[str, Path | bytes], key: PrivateKey
) -> Callable[..., Path]:
    def write(*, signed: bool = True) -> Path:
        path = tmp_path / ("signed.hyle" if signed else "unsigned.hyle")
        write_bundle(path, manifest, files, key if signed else None)
        return path

    return write


@pytest.fixture(scope="session")
def peer_python() -> Path:
    """A Python of its own that has the reference implementations of DSSE and of model signing."""
    folder = ROOT / ".venv-signing"
    python, ready = folder / "bin" / "python", folder / "ready"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            try:
                subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True, timeout=120)
                subprocess.run([python, "-m", "pip", "install", *PEERS], check=True, capture_output=True, timeout=180)
            except (subprocess.SubprocessError, OSError) as error:
                pytest.skip(f"the reference implementations cannot be installed here: {type(error).__name__}")
            ready.touch()
    return python
