"""Perfect matter with few levels is a study of quantisation: it differs from the model, and that is no fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import decode_profile, find_profile

DIGITS = Path(__file__).resolve().parents[1] / "data" / "digits_mlp"


@pytest.mark.parametrize("stream", [None, True])
@pytest.mark.parametrize("section", ["weights", "dac"])
def test_it_compiles_and_tells_its_accuracy(section: str, stream: bool | None, tmp_path: Path) -> None:
    head, tail = find_profile("ideal")[1].decode().split(f"[{section}]\n")
    text = f"{head}[{section}]\n" + tail.replace("levels = 0", "levels = 2", 1)
    out = tmp_path / "o.hyle"
    done = compile_model(
        DIGITS / "model.onnx", DIGITS / "calib.npz", decode_profile(text), text.encode(), out, Options(stream=stream)
    )
    assert 0.3 < done.report["calibration"]["exact"] <= 1.0
