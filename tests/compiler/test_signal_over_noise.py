"""Signal is what answers vary by: an offset that every input sees alike is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import numpy_helper, parser

TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,24] x) => (float[N,12] y) { y = MatMul(x, w) }"""


def decibels(folder: Path, offset: float, stream: bool | None) -> Any:
    """The layer's inputs vary by one about `offset`."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((24, 12)).astype(np.float32)
    model = parser.parse_model(TEXT)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(model, str(folder / "m.onnx"))
    x = random.standard_normal((256, 24)).astype(np.float32)
    np.savez(folder / "c.npz", x=x + np.float32(offset))
    profile, text = find_profile("pcm-generic")
    options = Options(instances=2, stream=stream)
    done = compile_model(folder / "m.onnx", folder / "c.npz", profile, text, folder / "o.hyle", options)
    return np.array(done.report["layers"][0]["snr_db"])


@pytest.mark.parametrize("stream", [None, True])
def test_a_layer_on_a_large_offset_is_not_called_clean(stream: bool | None, tmp_path: Path) -> None:
    """An offset of 8 adds as much converter range and noise: 18 dB are lost, where 18 dB of power are no signal."""
    assert np.all(decibels(tmp_path, 8.0, stream) < decibels(tmp_path, 0.0, stream) - 6.0)
