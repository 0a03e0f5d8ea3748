"""Weights that are quantised in blocks, to four bits, or with scales of float16 go on physics as others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_bundle import open_bundle
from hyle_compiler.evaluate import exact_body
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import TensorProto, helper, numpy_helper, parser

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
BLOCKS = "<axis = 0, block_size = 8>(w, s)"
UNEVEN = "<axis = 0, block_size = 7>(w, s, z)"
COLUMNS = "<axis = 1>(w, s)"


def saved(folder: Path, operands: str, kind: int, scales: Array, zeros: Array | None) -> Path:
    real = "float16" if scales.dtype == np.float16 else "float"
    text = f'<ir_version: 10, opset_import: ["" : 21]> g ({real}[N,16] x) => ({real}[N,5] y) '
    model = parser.parse_model(text + f"{{ d = DequantizeLinear{operands}  y = MatMul(x, d) }}")
    low, high = {TensorProto.INT4: (-8, 8), TensorProto.UINT4: (0, 16)}.get(kind, (-127, 128))
    model.graph.initializer.append(helper.make_tensor("w", kind, (16, 5), RNG.integers(low, high, 80).tolist()))
    model.graph.initializer.append(numpy_helper.from_array(scales, "s"))
    if zeros is not None:
        model.graph.initializer.append(numpy_helper.from_array(zeros, "z"))
    onnx.save(model, str(folder / "m.onnx"))
    np.savez(folder / "c.npz", x=RNG.standard_normal((40, 16)).astype(scales.dtype))
    return folder / "m.onnx"


def some(*shape: int) -> Array:
    return RNG.uniform(0.005, 0.02, shape).astype(np.float32)


@pytest.mark.parametrize("stream", [None, True])
@pytest.mark.parametrize(
    ("operands", "kind", "scales", "zeros"),
    [
        (BLOCKS, TensorProto.INT8, some(2, 5), None),
        (UNEVEN, TensorProto.INT8, some(3, 5), RNG.integers(-9, 9, (3, 5)).astype(np.int8)),
        (BLOCKS, TensorProto.INT4, some(2, 5), None),
        (COLUMNS, TensorProto.UINT4, some(5), None),
        (COLUMNS, TensorProto.INT8, some(5).astype(np.float16), None),
    ],
    ids=["blocks", "uneven blocks", "4 bits in blocks", "4 bits", "float16"],
)
def test_they_are_a_layer_that_answers_as_the_model_does(
    operands: str, kind: int, scales: Array, zeros: Array | None, stream: bool | None, tmp_path: Path
) -> None:
    path = saved(tmp_path, operands, kind, scales, zeros)
    profile, text = find_profile("ideal")
    done = compile_model(path, tmp_path / "c.npz", profile, text, tmp_path / "o.hyle", Options(stream=stream))
    assert [(layer["rows"], layer["cols"]) for layer in done.report["layers"]] == [(16, 5)]
    with open_bundle(tmp_path / "o.hyle") as bundle:
        bundle.extract(tmp_path / "files")
        body = exact_body(tmp_path / "files", bundle.manifest, profile)
    x = np.load(tmp_path / "c.npz")["x"]
    # Optimised, it multiplies four-bit weights by inputs that it rounds to eight bits.
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    want = ort.InferenceSession(str(path), plain).run(None, {"x": x})[0]
    share = 4 * 2.0**-10 if scales.dtype == np.float16 else 1e-5
    assert np.abs(body.run({"x": x})["y"].astype(np.float64) - want).max() <= share * np.ptp(want.astype(np.float64))
