"""What a twin's graph reads for noise behaves as what its driver draws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hyle_bundle import open_bundle
from hyle_compiler.evaluate import tensor_file
from hyle_compiler.pipeline import Options, compile_model
from hyle_runtime.body import Body
from hyle_substrates.profile import find_profile
from hyle_substrates.twin import TwinDriver
from onnx import TensorProto, helper, numpy_helper

READS = 4096


def bodies(
    tmp_path: Path,
    target: str,
    nodes: list[onnx.NodeProto],
    weight: np.ndarray,
    x: np.ndarray,
    *,
    sized: bool = True,
    outputs: str = "y",
) -> list[Body]:
    """The same instance twice: its graph in onnxruntime, and its driver layer by layer; `sized`: with known shapes."""
    free = ["N", x.shape[1], *[None] * (x.ndim - 2)]
    shapes = [["N", *x.shape[1:]] if sized else free, *[["N", *[None] * (x.ndim - 1)]] * len(outputs)]
    names = ["x", *outputs]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=x)
    profile, text = find_profile(target)
    options = Options(name="m", instances=2, copies=1)
    compile_model(tmp_path / "m.onnx", tmp_path / "x.npz", profile, text, tmp_path / "m.hyle", options)
    with open_bundle(tmp_path / "m.hyle") as bundle:
        bundle.extract(tmp_path / "m")
        manifest = bundle.manifest
    files = [tensor_file(tmp_path / "m" / f"{name}.safetensors") for name in ("programming", "golden")]
    made = []
    for fused in (True, False):
        body = Body(tmp_path / "m", manifest, files[0], files[1], TwinDriver(profile, 5), fused=fused)
        body.program()
        made.append(body)
    return made


# Runs of the table fit a sample exactly in the first case alone; the last one's noise depends on the signal. A layer
# whose size is not known draws its own places in the table, the others do so together.
CASES = {
    "128 columns": ("pcm-generic", ("MatMul", ["x", "w"], {}), (48, 128), (16, 48)),
    "10 columns": ("pcm-generic", ("MatMul", ["x", "w"], {}), (48, 10), (16, 48)),
    "convolution": ("pcm-generic", ("Conv", ["x", "w"], {"kernel_shape": [3, 3]}), (5, 2, 3, 3), (16, 2, 7, 7)),
    "convolution of any size": (
        "pcm-generic",
        ("Conv", ["x", "w"], {"kernel_shape": [3, 3]}),
        (5, 2, 3, 3),
        (16, 2, 7, 7),
    ),
    "shot noise": ("slm-wang2022", ("MatMul", ["x", "w"], {}), (48, 24), (16, 48)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_graph_reads_the_noise_that_its_driver_draws(tmp_path: Path, case: str) -> None:
    target, (op, inputs, attributes), shape, many = CASES[case]
    random = np.random.default_rng(3)
    weight = random.normal(0, 0.2, shape).astype(np.float32)
    x = np.abs(random.normal(size=many)).astype(np.float32)
    node = helper.make_node(op, inputs, ["y"], **attributes)
    graph, driver = bodies(tmp_path, target, [node], weight, x, sized=case != "convolution of any size")
    one = np.repeat(x[:1], READS, axis=0)
    read, drawn = (body.run({"x": one})["y"].reshape(READS, -1).astype(np.float64) for body in (graph, driver))
    assert (drawn.std(axis=0) > 0).all()
    # A variance of n reads has the relative standard deviation sqrt(2 / n), the ratio of two sqrt(4 / n): six of these
    # are exceeded by one of at most 128 columns with 3e-7. A converter's steps weigh the same on both sides.
    ratio = read.var(axis=0) / drawn.var(axis=0)
    assert np.abs(ratio - 1.0).max() < 6.0 * math.sqrt(4.0 / READS)
    shift = (read.mean(axis=0) - drawn.mean(axis=0)) / (drawn.std(axis=0) * math.sqrt(2.0 / READS))
    # Both bodies were corrected by the same reads, those of one seed.
    assert np.abs(shift).max() < 6.0
    centred = (read - read.mean(axis=0)) / read.std(axis=0)
    neighbours = float(np.mean(centred[1:] * centred[:-1]))
    # Runs of 128 are repeated whole, so that the products of one run count as one at worst.
    assert abs(neighbours) < 5.0 / math.sqrt(READS)


def test_without_noise_nothing_is_read(tmp_path: Path) -> None:
    _, (op, inputs, attributes), shape, many = CASES["10 columns"]
    random = np.random.default_rng(3)
    weight, x = random.normal(0, 0.2, shape).astype(np.float32), random.normal(size=many).astype(np.float32)
    bodies(tmp_path, "ideal", [helper.make_node(op, inputs, ["y"], **attributes)], weight, x)
    twin = onnx.load(tmp_path / "m" / "twin.onnx", load_external_data=False)
    assert not [i.name for i in twin.graph.initializer if "deviates" in i.name]


def test_layers_that_draw_together_have_noise_of_their_own(tmp_path: Path) -> None:
    """Two layers of 10 columns; a graph of known sizes draws once, and no body does."""
    random = np.random.default_rng(3)
    weight, x = random.normal(0, 0.2, (48, 10)).astype(np.float32), random.normal(size=(16, 48)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["x"], ["u"])]
    nodes.append(helper.make_node("MatMul", ["u", "w"], ["z"]))
    graph, _ = bodies(tmp_path, "pcm-generic", nodes, weight, x, outputs="yz")
    twin = onnx.load(tmp_path / "m" / "twin.onnx", load_external_data=False)
    assert sum(node.op_type == "RandomUniformLike" for node in twin.graph.node) == 1
    assert not [node for body in twin.functions for node in body.node if "Random" in node.op_type]
    read = graph.run({"x": np.repeat(x[:1], READS, axis=0)})
    y, z = ((read[name] - read[name].mean(axis=0)) / read[name].std(axis=0) for name in "yz")
    # Of 100 correlations of READS independent reads five standard deviations are exceeded with 6e-5, before and after
    # converters that round both alike.
    assert np.abs(y.T @ z / READS).max() < 5.0 / math.sqrt(READS)


def test_a_large_batch_is_answered_in_portions_and_a_mixing_model_is_not(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    weight, x = random.normal(0, 0.2, (8, 4)).astype(np.float32), random.normal(size=(40000, 8)).astype(np.float32)
    fused, _ = bodies(tmp_path, "ideal", [helper.make_node("MatMul", ["x", "w"], ["y"])], weight, x[:16])
    assert len(fused._portions({"x": x})) > 1
    # 2 n eps of the sum of magnitudes bounds two float32 sums of n products (Higham 2002, 4.2).
    bound = 16 * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(weight)).max()
    np.testing.assert_allclose(fused.run({"x": x})["y"], x @ weight, rtol=0, atol=float(bound))
