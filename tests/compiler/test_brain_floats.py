"""Models that compute in bfloat16, of which onnxruntime has hardly any operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hyle_bundle import open_bundle
from hyle_compiler.activations import start_session
from hyle_compiler.errors import ModelError
from hyle_compiler.evaluate import exact_body
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import TensorProto, helper, parser

Array = np.ndarray[Any, Any]
HEAD = '<ir_version: 10, opset_import: ["" : 21]> '
INSIDE = """g (float[N,16] x) => (float[N,5] y) {
  b = Cast<to = 16>(x)  h = MatMul(b, w1)  r = Relu(h)  s = Softmax<axis = 1>(r)  t = Mul(r, s)
  z = Gemm(t, w2)  y = Cast<to = 1>(z) }"""
OUTSIDE = "g (bfloat16[N,16] x) => (float[N,12] y) { r = Relu(x)  z = MatMul(r, w1)  y = Cast<to = 1>(z) }"
ANSWERS = "g (float[N,16] x) => (bfloat16[N,12] y) { b = Cast<to = 16>(x)  y = MatMul(b, w1) }"
RNG = np.random.default_rng(0)
W1, W2, X = (RNG.standard_normal(shape).astype(np.float32) for shape in ((16, 12), (12, 5), (40, 16)))


def saved(folder: Path, text: str) -> Path:
    model = parser.parse_model(HEAD + text)
    for name, array in (("w1", W1), ("w2", W2)):
        raw = array.astype(ml_dtypes.bfloat16).tobytes()
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, raw, raw=True))
    onnx.save(model, str(folder / "m.onnx"))
    np.savez(folder / "c.npz", x=X)
    return folder / "m.onnx"


def compiled(folder: Path, text: str, target: str, stream: bool | None = None) -> Any:
    profile, toml = find_profile(target)
    path = saved(folder, text)
    options = Options(instances=2, stream=stream)
    return compile_model(path, folder / "c.npz", profile, toml, folder / "o.hyle", options)


def rounded(values: Array) -> Array:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("target", ["ideal", "pcm-generic"])
@pytest.mark.parametrize("stream", [None, True])
def test_they_answer_as_their_operators_say(target: str, stream: bool | None, tmp_path: Path) -> None:
    """Each result rounds to 8 bits, half a step of 2^-8 at most; three operators in a row."""
    done = compiled(tmp_path, INSIDE, target, stream)
    assert [layer["op"] for layer in done.report["layers"]] == ["matmul", "matmul"]
    assert done.report["calibration"]["float"] == 1.0
    with open_bundle(tmp_path / "o.hyle") as bundle:
        bundle.extract(tmp_path / "files")
        body = exact_body(tmp_path / "files", bundle.manifest, find_profile(target)[0])
    r = np.maximum(rounded(rounded(X) @ rounded(W1)), 0.0)
    s = np.exp(r - r.max(axis=1, keepdims=True))
    want = (r * s / s.sum(axis=1, keepdims=True)) @ rounded(W2)
    share = 0.02 if target == "ideal" else 0.1
    assert np.abs(body.run({"x": X})["y"] - want).max() < share * np.ptp(want)


@pytest.mark.parametrize("text", [OUTSIDE, ANSWERS])
def test_a_type_that_no_request_can_hold_is_refused_with_a_way_out(text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is bfloat16, which neither") as caught:
        compiled(tmp_path, text, "ideal")
    assert "float32 or float16" in str(caught.value.remedy)


def test_a_float_model_that_onnxruntime_cannot_run_says_what_to_export(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        start_session(saved(tmp_path, INSIDE))
    assert "float32 or float16" in str(caught.value.remedy)
