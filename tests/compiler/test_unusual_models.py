"""Models of shapes that the samples do not have."""

from __future__ import annotations

from collections.abc import Sequence
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
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def info(name: str, shape: Sequence[object], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


Infos = list[onnx.ValueInfoProto]
Case = tuple[int, list[onnx.NodeProto], Infos, Infos, dict[str, Array], dict[str, Array]]
CASES: dict[str, Case] = {
    "convolution of one axis with two outputs": (
        17,
        [
            node("Conv", "x w b", "c", pads=[1, 1]),
            node("Relu", "c", "r"),
            node("ReduceMean", "r", "m", axes=[2], keepdims=0),
        ],
        [info("x", ["N", 4, 20])],
        [info("m", ["N", 6]), info("c", ["N", 6, 20])],
        {"w": normal(6, 4, 3), "b": normal(6)},
        {"x": normal(30, 4, 20)},
    ),
    "tokens beside numbers": (
        17,
        [
            node("Gather", "emb ids", "e"),
            node("ReduceMean", "e", "m", axes=[1], keepdims=0),
            node("Concat", "m x", "c", axis=1),
            node("MatMul", "c w", "y"),
        ],
        [info("ids", ["N", 7], TensorProto.INT64), info("x", ["N", 5])],
        [info("y", ["N", 3])],
        {"emb": normal(50, 8), "w": normal(13, 3)},
        {"ids": np.random.default_rng(0).integers(0, 50, (40, 7)), "x": normal(40, 5)},
    ),
    "batches of one": (
        17,
        [node("Gemm", "x w b", "y", alpha=0.5, beta=2.0, transB=1)],
        [info("x", [1, 9])],
        [info("y", [1, 4])],
        {"w": normal(4, 9), "b": normal(4)},
        {"x": normal(25, 9)},
    ),
    "batches of four": (
        17,
        [node("Gemm", "x w b", "y", transB=1)],
        [info("x", [4, 9])],
        [info("y", [4, 4])],
        {"w": normal(4, 9), "b": normal(4)},
        {"x": normal(26, 9)},
    ),
    "batches of more samples than are run at once elsewhere": (
        17,
        [node("Gemm", "x w b", "y", transB=1)],
        [info("x", [150, 9])],
        [info("y", [150, 4])],
        {"w": normal(4, 9), "b": normal(4)},
        {"x": normal(320, 9)},
    ),
    "an operator of onnxruntime whose answer is needed again later": (
        17,
        [
            node("MatMul", "x w", "a"),
            node("Gelu", "a", "g", domain="com.microsoft"),
            node("MatMul", "g v", "m"),
            node("Add", "m g", "y"),
        ],
        [info("x", ["N", 6])],
        [info("y", ["N", 6])],
        {"w": normal(6, 6), "v": normal(6, 6)},
        {"x": normal(30, 6)},
    ),
    "maps of one row": (
        17,
        [node("Conv", "x w", "y")],
        [info("x", ["N", 2, 1, 9])],
        [info("y", ["N", 5, 1, 7])],
        {"w": normal(5, 2, 1, 3)},
        {"x": normal(30, 2, 1, 9)},
    ),
    "the same weights twice, one after the other": (
        17,
        [node("MatMul", "x w", "a"), node("MatMul", "a w", "y"), node("Identity", "x", "z")],
        [info("x", ["N", 6])],
        [info("y", ["N", 6]), info("z", ["N", 6])],
        {"w": normal(6, 6)},
        {"x": normal(30, 6)},
    ),
    "an opset whose noise onnxruntime lacks": (
        23,
        [node("MatMul", "x w", "a"), node("Gelu", "a", "g"), node("MatMul", "g v", "y")],
        [info("x", ["N", 6])],
        [info("y", ["N", 2])],
        {"w": normal(6, 6), "v": normal(6, 2)},
        {"x": normal(30, 6)},
    ),
    "samples of nothing but zeros": (
        13,
        [node("MatMul", "x w", "y")],
        [info("x", ["N", 6])],
        [info("y", ["N", 2])],
        {"w": normal(6, 2)},
        {"x": np.zeros((10, 6), np.float32)},
    ),
    "one sample": (
        13,
        [node("MatMul", "x w", "y")],
        [info("x", ["N", 6])],
        [info("y", ["N", 2])],
        {"w": normal(6, 2)},
        {"x": normal(1, 6)},
    ),
}


@pytest.mark.parametrize("target", ["pcm-hermes", "ideal"])
@pytest.mark.parametrize("name", CASES)
def test_an_unusual_model_goes_the_whole_way(name: str, target: str, tmp_path: Path) -> None:
    """Perfect matter answers to float32; pcm-hermes within its converters' steps.

    An ADC code is 10/127 of a largest product; the sums of these small layers span about two of those, so that a code
    is 4 % of the extent. Two layers, each with one code of error at either end, stay within 0.16.
    """
    opset, nodes, inputs, outputs, weights, samples = CASES[name]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in weights.items()])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", **samples)  # type: ignore[arg-type]
    profile, text = find_profile(target)
    out = tmp_path / "m.hyle"
    compile_model(tmp_path / "m.onnx", tmp_path / "c.npz", profile, text, out, Options(instances=2))
    with open_bundle(out) as bundle:
        bundle.extract(tmp_path / "files")
        manifest = bundle.manifest
    assert manifest.layers
    size = inputs[0].type.tensor_type.shape.dim[0].dim_value or 5
    feed = {n: a[:size] for n, a in samples.items()}
    want = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, feed)
    onnx.checker.check_model(str(tmp_path / "files" / "program.onnx"), full_check=True)
    for fused in (True, False):
        got = exact_body(tmp_path / "files", manifest, profile, fused=fused).run(feed)
        for output, exact in zip(outputs, want, strict=True):
            assert got[output.name].shape == exact.shape
            extent = float(exact.max() - exact.min()) or 1.0
            bound = 1e-4 if target == "ideal" else 0.16
            assert np.abs(got[output.name] - exact).max() <= bound * extent


@pytest.mark.parametrize("stream", [None, True])
def test_an_input_that_is_an_output_as_well_keeps_its_name(stream: bool | None, tmp_path: Path) -> None:
    """Samples and requests name it; only its copy among the outputs gets another name."""
    x, y = info("x", ["N", 9]), info("y", ["N", 4])
    graph = helper.make_graph([node("MatMul", "x w", "y")], "g", [x], [y, x])
    graph.initializer.append(numpy_helper.from_array(normal(9, 4), "w"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(tmp_path / "m.onnx"))
    samples = normal(20, 9)
    np.savez(tmp_path / "c.npz", x=samples)
    profile, text = find_profile("ideal")
    out = tmp_path / "o.hyle"
    compile_model(tmp_path / "m.onnx", tmp_path / "c.npz", profile, text, out, Options(stream=stream))
    with open_bundle(out) as bundle:
        bundle.extract(tmp_path / "files")
        manifest = bundle.manifest
    assert [value.name for value in manifest.inputs] == ["x"]
    for fused in (True, False):
        answers = exact_body(tmp_path / "files", manifest, profile, fused=fused).run({"x": samples})
        assert np.array_equal(answers["x_out"], samples)
        assert np.allclose(answers["y"], samples @ normal(9, 4), atol=1e-4)
