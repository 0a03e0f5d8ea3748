from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hyle_compiler.adapt.method import Budget, Task
from hyle_compiler.adapting import calibrated_layers, find_goal
from hyle_compiler.inputs import input_specs
from hyle_compiler.partition import Partition, partition
from hyle_compiler.read import read_model
from hyle_compiler.samples import Samples, load_samples
from hyle_compiler.simplify import simplify
from hyle_substrates.profile import Profile, load_profile

DATA = Path(__file__).resolve().parents[1] / "data"


class Given:
    """A digits model, simplified, with its samples."""

    def __init__(self, name: str, folder: Path, target: str) -> None:
        self.path = DATA / name / "model.onnx"
        self.calib = DATA / name / "calib.npz"
        self.model: ir.Model = simplify(read_model(self.path))
        self.parts: Partition = partition(self.model)
        self.samples: Samples = load_samples(self.calib, input_specs(self.model))
        self.eval: Samples = load_samples(DATA / name / "eval.npz", input_specs(self.model))
        self.profile: Profile = load_profile(target)
        self.folder = folder

    def task(self, **changes: Any) -> Task:
        layers = calibrated_layers(self.folder, self.model, self.parts.physical, self.samples, self.profile, 1, 0)
        options: dict[str, Any] = {
            "model": self.model,
            "layers": layers,
            "samples": self.samples,
            "profile": self.profile,
            "compensation": "affine",
            "seed": 0,
            "budget": Budget(epochs=1, steps=4, batch=50),
            "folder": self.folder,
        }
        made = options | changes
        goal = find_goal(self.folder, self.model, made["samples"])
        return Task(**({"goal": goal} | made))


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Given]:
    return lambda name="digits_mlp", target="pcm-generic": Given(name, tmp_path, target)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
