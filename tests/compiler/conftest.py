from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compiler_models import Compile, Opened, model_folder, samples_of
from hyle_bundle import open_bundle
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile


@pytest.fixture
def compile_for(tmp_path: Path) -> Compile:
    def run(name: str, target: str, tag: str = "", **options: Any) -> Opened:
        folder = model_folder(name)
        profile, text = find_profile(target)
        out = tmp_path / f"{name}-{target}{tag}.hyle"
        calibration = samples_of(folder, "calib", tmp_path / f"{name}.calib.npz")
        done = compile_model(
            folder / "model.onnx", calibration, profile, text, out, Options(**{"instances": 2} | options)
        )
        extracted = tmp_path / f"{name}-{target}{tag}"
        with open_bundle(out) as bundle:
            bundle.extract(extracted)
            return Opened(done, extracted, bundle.manifest)

    return run
