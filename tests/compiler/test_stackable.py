"""Only a model that answers each sample by itself may get several requests as one batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hyle_bundle import open_bundle
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import TensorProto, helper, numpy_helper


def stackable(tmp_path: Path, nodes: list[onnx.NodeProto], samples: int = 8) -> bool:
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(6, 4)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, numpy_helper.from_array(np.array([0]), "axes")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=random.normal(size=(samples, 6)).astype(np.float32))
    profile, text = find_profile("ideal")
    compile_model(tmp_path / "m.onnx", tmp_path / "x.npz", profile, text, tmp_path / "m.hyle", Options())
    with open_bundle(tmp_path / "m.hyle") as bundle:
        return bundle.manifest.stackable


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["a"])


@pytest.mark.parametrize("samples", [1, 8])
def test_a_product_of_each_sample_is(tmp_path: Path, samples: int) -> None:
    assert stackable(tmp_path, [PRODUCT, helper.make_node("Relu", ["a"], ["y"])], samples)


def test_a_sum_along_a_first_axis_that_is_time_is_not(tmp_path: Path) -> None:
    nodes = [helper.make_node("Squeeze", ["axes"], ["axis"]), helper.make_node("CumSum", ["a", "axis"], ["y"])]
    assert not stackable(tmp_path, [PRODUCT, *nodes])


def test_a_mean_over_the_batch_is_not(tmp_path: Path) -> None:
    mean = helper.make_node("ReduceMean", ["a"], ["m"], axes=[0], keepdims=1)
    assert not stackable(tmp_path, [PRODUCT, mean, helper.make_node("Sub", ["a", "m"], ["y"])])


def test_a_scale_taken_from_the_whole_batch_is_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    assert not stackable(tmp_path, nodes)
