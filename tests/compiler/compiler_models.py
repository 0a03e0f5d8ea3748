from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hyle_bundle.manifest import Manifest
from hyle_compiler.pipeline import Compiled

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT / "hyle" / "demo_data" / "mnist_lenet5"
DIGITS = ROOT / "tests" / "data"
IN_REPOSITORY = {"mnist_lenet5": MNIST, **{path.name: path for path in sorted(DIGITS.glob("digits_*"))}}


@dataclass(frozen=True)
class Opened:
    compiled: Compiled
    folder: Path
    manifest: Manifest


Compile = Callable[..., Opened]


def model_folder(name: str) -> Path:
    """A model's folder; those that the repository may not carry come from the folder that HYLE_MODELS names."""
    if name in IN_REPOSITORY:
        return IN_REPOSITORY[name]
    elsewhere = os.environ.get("HYLE_MODELS")
    if not elsewhere or not (Path(elsewhere) / name).is_dir():
        pytest.skip(f"{name} has no clear licence; name a folder that holds it in HYLE_MODELS")
    return Path(elsewhere) / name


def samples_of(folder: Path, split: str, target: Path) -> Path:
    """The folder's samples in hyle's form (the repository's are; others hold x, y and how to scale them)."""
    given = folder / f"{split}.npz"
    with np.load(given) as file:
        if "x" not in file.files:
            return given
        name = ort.InferenceSession(str(folder / "model.onnx")).get_inputs()[0].name
        x = ((file["x"].astype(np.float32) - file["x_offset"]) * file["x_scale"]).astype(np.float32)
        np.savez(target, **{name: x, "labels": file["y"]})
    return target
