"""Every operator that goes on physics: `ideal` equals onnxruntime, and the program equals the physics, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_compiler.backend import HyleBackend, HyleRep
from hyle_compiler.partition import partition
from hyle_compiler.simplify import simplify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_ir import from_proto

Array = np.ndarray[Any, Any]
LAW = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
EPS = float(np.finfo(np.float32).eps)


def one_node(
    op: str, inputs: Sequence[str], weights: dict[str, Array], x: Array, opset: int = 17, **attributes: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["y"], name="layer", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in weights.items()],
    )
    if "Integer" not in op:
        graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def exact(model: onnx.ModelProto, x: Array) -> Array:
    options = ort.SessionOptions()
    # With its optimisations onnxruntime quantises the activations of DequantizeLinear -> MatMul to int8.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    out: Array = y
    return out


def hold(model: onnx.ModelProto, x: Array, products: int, layers: int | None = None) -> HyleRep:
    """On `ideal` the compiled model differs from onnxruntime by rounding alone."""
    want = exact(model, x)
    rep = HyleBackend.prepare(model)
    (got,) = rep.run([x])
    # Two float32 sums of n products in any order differ by at most 2 n eps of the sum of magnitudes (Higham 2002, 4.2).
    extent = max(1.0, float(np.abs(want).max(initial=0.0))) * max(1.0, products**0.5)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=2 * products * EPS * extent)
    assert rep.layers
    if layers is not None:
        assert len(rep.layers) == layers
    hold_physics(model, x)
    return rep


def hold_physics(model: onnx.ModelProto, x: Array) -> None:
    """On `pcm-generic` without noise the fused program equals the NumPy physics that the driver does.

    Both round to the same codes except where a float32 sum lies within rounding of a half, so nearly all answers agree
    to float32 and none differs by more than a few codes.
    """
    from hyle_compiler.evaluate import exact_body

    rep = HyleBackend.prepare(model, target="pcm-generic")
    rep.run([x])
    assert rep.folder is not None
    stepped = exact_body(rep.folder, rep.manifest, rep.profile, fused=False)
    fused = exact_body(rep.folder, rep.manifest, rep.profile, fused=True)
    name = rep.manifest.outputs[0].name
    a, b = stepped.run({"x": x})[name], fused.run({"x": x})[name]
    assert a.shape == b.shape
    extent = float(np.abs(a).max(initial=0.0)) or 1.0
    close = np.abs(a - b) <= 1e-5 * extent
    assert close.mean() >= 0.98
    # A sum near a half gives a neighbouring code: one part in the ADC's 255 codes of at most 12 full scales a block.
    codes = 12 / 255 * sum(len(layer.blocks) for layer in rep.manifest.layers)
    assert np.abs(a - b).max(initial=0.0) <= 2 * codes * extent


def draw_array(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)


@LAW
@given(sizes, sizes, sizes, sizes, st.booleans(), seeds)
def test_matmul_with_a_constant_on_either_side(batch: int, m: int, k: int, n: int, left: bool, seed: int) -> None:
    x, w = (draw_array(seed, batch, k, n), draw_array(seed + 1, m, k))
    if not left:
        x, w = draw_array(seed, batch, m, k), draw_array(seed + 1, k, n)
    hold(one_node("MatMul", ["w", "x"] if left else ["x", "w"], {"w": w}, x), x, k, 1)


@LAW
@given(st.integers(1, 3), sizes, sizes, sizes, st.sampled_from(["one", "stack", "vector", "unit"]), seeds)
def test_matmul_with_stacks_of_matrices(b: int, m: int, k: int, n: int, kind: str, seed: int) -> None:
    shape = {"one": (k, n), "stack": (b, k, n), "vector": (k,), "unit": (1, k, n)}[kind]
    x = draw_array(seed, b, m, k)
    hold(one_node("MatMul", ["x", "w"], {"w": draw_array(seed + 1, *shape)}, x), x, k, b if kind == "stack" else 1)


@LAW
@given(sizes, sizes, sizes, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0, 1, 2]), seeds)
def test_gemm_in_every_orientation(
    m: int, k: int, n: int, ta: bool, tb: bool, left: bool, bias: int, seed: int
) -> None:
    a, b = draw_array(seed, *((k, m) if ta else (m, k))), draw_array(seed + 1, *((n, k) if tb else (k, n)))
    x, w = (b, a) if left else (a, b)
    weights = {"w": w}
    if bias:
        weights["c"] = draw_array(seed + 2, *((n,) if bias == 1 else (m, n)))
    names = [*(["w", "x"] if left else ["x", "w"]), *(["c"] if bias else [])]
    hold(one_node("Gemm", names, weights, x, transA=int(ta), transB=int(tb), alpha=0.5, beta=2.0), x, k + 1, 1)


@LAW
@given(st.data())
def test_convolutions_of_one_to_three_axes(data: st.DataObject) -> None:
    axes, group = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, 3, 9]))
    per, out = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    pick = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, strides, dilations, pads = pick(1, 3), pick(1, 2), pick(1, 2), [*pick(0, 2), *pick(0, 2)]
    seed = data.draw(seeds)
    x = draw_array(seed, data.draw(st.integers(1, 2)), group * per, *[6] * axes)
    w, b = draw_array(seed + 1, group * out, per, *kernel), draw_array(seed + 2, group * out)
    model = one_node(
        "Conv", ["x", "w", "b"], {"w": w, "b": b}, x, strides=strides, dilations=dilations, pads=pads, group=group
    )
    hold(model, x, per * int(np.prod(kernel)) + 1, {1: 1, 2: 2, 3: 3, 9: 2}[group])


@LAW
@given(st.data())
def test_transposed_convolutions_of_one_to_three_axes(data: st.DataObject) -> None:
    axes, group = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2]))
    per, out = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    pick = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, strides, dilations, pads = pick(1, 3), pick(1, 3), pick(1, 2), [*pick(0, 1), *pick(0, 1)]
    extra = [data.draw(st.integers(0, s - 1)) for s in strides]
    seed = data.draw(seeds)
    x = draw_array(seed, 2, group * per, *[5] * axes)
    w = draw_array(seed + 1, group * per, out, *kernel)
    model = one_node(
        "ConvTranspose",
        ["x", "w"],
        {"w": w},
        x,
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=extra,
        group=group,
    )
    hold(model, x, per * int(np.prod(kernel)), group)


@pytest.mark.parametrize(
    ("equation", "x_shape", "w_shape"),
    [
        ("bsd,dhk->bshk", (2, 3, 4), (4, 2, 5)),
        ("bshk,hkd->bsd", (2, 3, 2, 4), (2, 4, 5)),
        ("bk,nk->bn", (3, 4), (5, 4)),
        ("bkt,kn->bnt", (2, 4, 3), (4, 5)),
        ("bj,jk", (3, 4), (4, 5)),
        ("zj,ja", (3, 4), (4, 5)),
        ("...j,jk->...k", (2, 3, 4), (4, 5)),
        ("... j, j k", (2, 3, 4), (4, 5)),
        ("b...j,jk->bk...", (2, 3, 4), (4, 5)),
    ],
)
def test_einsum_that_is_a_matrix_product(equation: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    x, w = draw_array(1, *x_shape), draw_array(2, *w_shape)
    hold(one_node("Einsum", ["x", "w"], {"w": w}, x, equation=equation), x, 8, 1)


@pytest.mark.parametrize(
    ("equation", "x_shape", "w_shape"),
    [
        ("bhd,hde->bhe", (2, 3, 4), (3, 4, 5)),
        ("bshd,hde->bshe", (2, 6, 3, 4), (3, 4, 5)),
        ("hd,hde->eh", (3, 4), (3, 4, 5)),
        ("bhsd,dhke->bshke", (2, 3, 6, 4), (4, 3, 2, 5)),
        ("bskhd,khde->bshe", (2, 6, 2, 3, 4), (2, 3, 4, 5)),
        ("bhd,hde->bhe", (2, 1, 4), (1, 4, 5)),
    ],
)
def test_einsum_with_a_matrix_for_each_head(equation: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    x, w = draw_array(1, *x_shape), draw_array(2, *w_shape)
    layers = dict(zip(equation.partition(",")[0], x_shape, strict=True))["h"]
    hold(one_node("Einsum", ["x", "w"], {"w": w}, x, equation=equation), x, 8, layers)


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [
        ((2, 3, 4, 5), (3, 5, 6)),
        ((2, 1, 4, 5), (3, 5, 6)),
        ((2, 3, 4, 5), (1, 3, 5, 6)),
        ((2, 2, 3, 1, 5), (3, 5, 6)),
        ((1, 4, 5), (3, 5, 6)),
    ],
)
def test_matmul_with_a_matrix_for_each_head(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    x, w = draw_array(1, *x_shape), draw_array(2, *w_shape)
    hold(one_node("MatMul", ["x", "w"], {"w": w}, x), x, 5, 3)


def quantised(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


@LAW
@given(sizes, sizes, sizes, seeds)
def test_integer_weights_become_levels_directly(m: int, k: int, n: int, seed: int) -> None:
    w, scale = quantised(seed, k, n), np.random.default_rng(seed).uniform(0.01, 0.1, n).astype(np.float32)
    w[0] = np.where(w.any(axis=0), w[0], 1)
    x = draw_array(seed + 1, m, k)
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=1),
            helper.make_node("MatMul", ["x", "f"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (m, n))],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(scale, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    hold(model, x, k, 1)
    rep = HyleBackend.prepare(model, target="pcm-generic")
    rep.run([x])
    np.testing.assert_array_equal(rep.levels()[0], w)


@LAW
@given(sizes, sizes, sizes, seeds)
def test_matmul_integer_is_exact(m: int, k: int, n: int, seed: int) -> None:
    x, w = quantised(seed, m, k), quantised(seed + 1, k, n)
    w.flat[0] = 3
    model = one_node("MatMulInteger", ["x", "w"], {"w": w}, x)
    rep = HyleBackend.prepare(model)
    (got,) = rep.run([x])
    np.testing.assert_array_equal(got, exact(model, x))
    assert len(rep.layers) == 1


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (
            helper.make_node("Einsum", ["h", "v"], ["y"], name="left", equation="bi,ji->bj"),
            "its equation 'bi,ji->bj' is no product with one constant matrix here",
        ),
        (
            helper.make_node("FusedMatMul", ["h", "w"], ["y"], name="left", domain="com.microsoft", transB=1),
            "it is an operator of onnxruntime's own; export the model before it is optimised or quantised",
        ),
    ],
)
def test_products_that_cannot_be_read_are_among_the_digital_ones(node: onnx.NodeProto, reason: str) -> None:
    """Beside a product that goes on physics."""
    w = draw_array(1, 4, 4)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"], name="first"), helper.make_node("Relu", ["h"], ["v"]), node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(w, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    parts = partition(simplify(from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))))
    assert [candidate.name for candidate in parts.physical] == ["first"]
    assert [(left.node, left.reason) for left in parts.digital] == [("left", reason)]


@LAW
@given(st.data())
def test_transposed_convolutions_of_a_size_that_is_asked_for(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    pick = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, dilations = pick(1, 3), pick(1, 2)
    seed, mode = data.draw(seeds), data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    x, w = draw_array(seed, 2, 2, *[5] * axes), draw_array(seed + 1, 2, 2, *kernel)
    attributes: dict[str, Any] = {"dilations": dilations}
    if mode == "NOTSET":
        strides = pick(1, 3)
        extra = [data.draw(st.integers(0, s - 1)) for s in strides]
        whole = [4 * s + e + d * (k - 1) + 1 for s, e, d, k in zip(strides, extra, dilations, kernel, strict=True)]
        asked = [size - data.draw(st.integers(0, min(3, size - 1))) for size in whole]
        attributes |= {"strides": strides, "output_padding": extra, "output_shape": asked}
    else:
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        attributes["strides"] = [data.draw(st.integers(1, min(3, most))) for most in reach]
    model = one_node("ConvTranspose", ["x", "w"], {"w": w}, x, auto_pad=mode, **attributes)
    hold(model, x, 2 * int(np.prod(kernel)), 1)


OPEN = "its output_shape depends on a free dimension, or asks for more than the kernel reaches; say pads instead"
EITHER = "its auto_pad leaves its size open; say pads instead"


@pytest.mark.parametrize(
    ("free", "attributes", "reason"),
    [
        (True, {"output_shape": [10, 10]}, OPEN),
        (False, {"output_shape": [12, 12]}, OPEN),
        (False, {"auto_pad": "SAME_UPPER", "output_padding": [1, 1]}, EITHER),
        (False, {"auto_pad": "SAME_LOWER", "strides": [4, 4]}, EITHER),
        (False, {"auto_pad": "SAME_LOWER", "output_shape": [10, 10]}, EITHER),
    ],
)
def test_a_transposed_convolution_of_a_size_that_cannot_be_known_is_among_the_digital_ones(
    free: bool, attributes: dict[str, Any], reason: str
) -> None:
    """An input of any size, one row more than the kernel reaches, and what onnx and onnxruntime say differently."""
    x, w = draw_array(1, 1, 2, 5, 5), draw_array(2, 2, 3, 3, 3)
    model = one_node("ConvTranspose", ["x", "w"], {"w": w}, x, **{"strides": [2, 2], **attributes})
    if free:
        for axis, dimension in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
            dimension.dim_param = f"n{axis}"
    parts = partition(simplify(from_proto(model)))
    assert not parts.physical
    assert [left.reason for left in parts.digital] == [reason]
