"""What follows a layer is done by its twin's last read, where it can be, and the answers stay what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hyle_bundle import open_bundle
from hyle_bundle.manifest import Manifest
from hyle_compiler import lower
from hyle_compiler.pipeline import Options, compile_model
from hyle_runtime import kernels
from hyle_substrates.profile import find_profile
from onnx import TensorProto, helper, numpy_helper
from test_converters import answers, seeded

SIZE = 11


def pool(x: str, y: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("MaxPool", [x], [y], **{"kernel_shape": [2, 2], "strides": [2, 2], **attributes})


def relu(x: str, y: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [x], [y])


BOTH = {"rectify": 1, "pool_height": 2, "pool_width": 2}
RECTIFY = {"rectify": 1, "pool_height": 0, "pool_width": 0}
NOTHING = {"rectify": 0, "pool_height": 0, "pool_width": 0}
# What follows the convolution `c`, up to `y`; what its read then does; the operators that stay in the graph.
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, int], list[str]]] = {
    "rectified, then pooled": ([relu("c", "r"), pool("r", "y")], BOTH, []),
    "pooled, then rectified": ([pool("c", "p"), relu("p", "y")], BOTH, []),
    "pooled twice": ([pool("c", "p"), pool("p", "y")], {**BOTH, "rectify": 0}, ["MaxPool"]),
    "rectified twice": ([relu("c", "r"), relu("r", "y")], RECTIFY, []),
    "pooled in one direction": (
        [pool("c", "y", kernel_shape=[1, 3], strides=[1, 3], auto_pad="VALID")],
        {"rectify": 0, "pool_height": 1, "pool_width": 3},
        [],
    ),
    "windows that overlap": ([relu("c", "r"), pool("r", "y", kernel_shape=[3, 3])], RECTIFY, ["MaxPool"]),
    "windows with a border": ([relu("c", "r"), pool("r", "y", pads=[1, 1, 0, 0])], RECTIFY, ["MaxPool"]),
    "windows as large as needed": ([pool("c", "y", auto_pad="SAME_UPPER")], NOTHING, ["MaxPool"]),
    "windows beyond the end": ([relu("c", "r"), pool("r", "y", ceil_mode=1)], RECTIFY, ["MaxPool"]),
    "windows with gaps": ([relu("c", "r"), pool("r", "y", dilations=[2, 2])], RECTIFY, ["MaxPool"]),
    "windows of every place": (
        [helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2])],
        NOTHING,
        ["MaxPool"],
    ),
    "read by two": ([relu("c", "r"), helper.make_node("Add", ["c", "r"], ["y"])], NOTHING, ["Relu", "Add"]),
    "rectified, then read by two": (
        [
            relu("c", "r"),
            pool("r", "p"),
            helper.make_node("GlobalMaxPool", ["r"], ["g"]),
            helper.make_node("Mul", ["p", "g"], ["y"]),
        ],
        RECTIFY,
        ["MaxPool", "GlobalMaxPool", "Mul"],
    ),
    "told as well": ([helper.make_node("Identity", ["c"], ["z"]), relu("c", "y")], NOTHING, ["Relu"]),
    "within a condition": (
        [
            helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0),
            helper.make_node("Cast", ["m"], ["b"], to=TensorProto.BOOL),
            helper.make_node(
                "If",
                ["b"],
                ["y"],
                then_branch=helper.make_graph(
                    [relu("c", "t")], "t", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
                ),
                else_branch=helper.make_graph(
                    [helper.make_node("Neg", ["c"], ["e"])],
                    "e",
                    [],
                    [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
                ),
            ),
        ],
        NOTHING,
        ["ReduceMax", "Cast", "If"],
    ),
}


def compiled(folder: Path, nodes: list[onnx.NodeProto]) -> tuple[Path, Manifest]:
    """A convolution on `pcm-hermes`, and what follows it."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(4)
    weight = numpy_helper.from_array(random.normal(0, 0.2, (5, 4, 3, 3)).astype(np.float32), "w")
    told = ["y", *[name for node in nodes for name in node.output if name == "z"]]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], name="layer"), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, SIZE, SIZE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None]) for name in told],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    np.savez(folder / "x.npz", x=random.normal(size=(24, 4, SIZE, SIZE)).astype(np.float32))
    profile, text = find_profile("pcm-hermes")
    options = Options(name="m", instances=1, copies=2)
    compile_model(folder / "m.onnx", folder / "x.npz", profile, text, folder / "m.hyle", options)
    with open_bundle(folder / "m.hyle") as bundle:
        bundle.extract(folder / "files")
        return folder / "files", bundle.manifest


@pytest.mark.parametrize("case", CASES)
def test_a_read_does_what_follows(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, done, left = CASES[case]
    folder, manifest = compiled(tmp_path / "with", nodes)
    twin = onnx.load(folder / "twin.onnx", load_external_data=False)
    (read,) = [node for body in twin.functions for node in body.node if node.op_type.startswith("Read")]
    said = {attribute.name: attribute.i for attribute in read.attribute}
    assert {name: said[name] for name in done} == done
    others = [node for node in twin.graph.node if not node.name.startswith("hyle.physical/")]
    assert [node.op_type for node in others if node.op_type not in {"Identity", manifest.layers[0].name}] == left
    monkeypatch.setattr(lower, "take_followers", lambda _: None)
    plain, _ = compiled(tmp_path / "without", nodes)
    seeded(folder)
    seeded(plain)
    profile, x = find_profile("pcm-hermes")[0], np.random.default_rng(9).normal(size=(10, 4, SIZE, SIZE))
    x = x.astype(np.float32)
    wanted = answers(plain, manifest, profile, x)
    assert np.array_equal(answers(folder, manifest, profile, x), wanted)
    assert len(np.unique(wanted)) > 20
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "none.so")
    assert np.array_equal(answers(folder, manifest, profile, x), wanted)
