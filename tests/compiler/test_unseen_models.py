"""Models as frameworks export them: blocks that the samples lack, other float types, weights in files beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_bundle import open_bundle
from hyle_compiler.evaluate import evaluate_bundle, exact_body
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import numpy_helper, parser

HEAD = '<ir_version: 8, opset_import: ["" : {opset}]>'
MODELS: dict[str, tuple[int, str, int]] = {
    "an inverted residual with squeeze and excitation": (
        17,
        """g (float[N,4,8,8] x) => (float[N,5] y)
        <float[16,4,1,1] e, float[16,1,3,3] d, float[16] db, float[4,16,1,1] s, float[16,4,1,1] t, float[4,16,1,1] p,
         float[4,5] w, float[5] b, int64[2] axes = {2, 3}> {
          a = Conv(x, e)  h = HardSwish(a)
          c = Conv<group = 16, pads = [1, 1, 1, 1]>(h, d, db)  k = HardSwish(c)
          m = ReduceMean<axes = [2, 3]>(k)  q = Conv(m, s)  r = Relu(q)  u = Conv(r, t)  v = HardSigmoid(u)
          z = Mul(k, v)  o = Conv(z, p)  res = Add(o, x)
          g1 = GlobalAveragePool(res)  f = Flatten(g1)  y = Gemm(f, w, b) }""",
        7,
    ),
    "an encoder and decoder with skip connections": (
        17,
        """g (float[N,1,8,8] x) => (float[N,2,8,8] y)
        <float[4,1,3,3] a, float[6,4,3,3] b, float[6,4,2,2] u, float[2,8,1,1] o> {
          p = Conv<pads = [1, 1, 1, 1]>(x, a)  q = Relu(p)
          m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(q)
          r = Conv<pads = [1, 1, 1, 1]>(m, b)  s = Relu(r)
          t = ConvTranspose<strides = [2, 2], kernel_shape = [2, 2]>(s, u)
          c = Concat<axis = 1>(t, q)  y = Conv(c, o) }""",
        4,
    ),
    "one number a sample": (
        17,
        """g (float[N,6] x) => (float[N] y) <float[6,9] w, float[9,1] v, int64[1] last = {1}> {
          h = MatMul(x, w)  s = Sigmoid(h)  k = MatMul(s, v)  y = Squeeze(k, last) }""",
        2,
    ),
    "half precision": (
        17,
        """g (float16[N,6] x) => (float16[N,3] y) <float16[6,9] w, float16[3,9] v, float16[3] b> {
          h = MatMul(x, w)  s = Tanh(h)  y = Gemm<transB = 1>(s, v, b) }""",
        2,
    ),
    "double precision": (
        18,
        """g (double[N,9] x) => (double[N,4] y) <double[9,4] w, double[4] b> { h = MatMul(x, w)  y = Add(h, b) }""",
        1,
    ),
    "a state beside the answer, samples second": (
        17,
        """g (float[N,5,3] x) => (float[N,4] y, float[1,N,4] state)
        <float[1,12,3] W, float[1,12,4] R, float[1,24] B, int64[1] none = {0}> {
          t = Transpose<perm = [1, 0, 2]>(x)
          h, state = GRU<hidden_size = 4, linear_before_reset = 1>(t, W, R, B)
          y = Squeeze(state, none) }""",
        2,
    ),
    "a branch that the data choose": (
        17,
        """g (float[N,6] x) => (float[N,3] y) <float[6,6] a, float[6,6] b, float[6,3] w, float zero = {0}> {
          s = ReduceSum<keepdims = 0>(x)  c = Greater(s, zero)
          h = If(c) <then_branch = t () => (float[N,6] o) { o = MatMul(x, a) },
                     else_branch = e () => (float[N,6] o) { k = MatMul(x, b)  o = Relu(k) }>
          y = MatMul(h, w) }""",
        3,
    ),
}
KINDS = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16, onnx.TensorProto.DOUBLE: np.float64}


def drawn(name: str) -> onnx.ModelProto:
    opset, text, _ = MODELS[name]
    model = parser.parse_model(HEAD.replace("{opset}", str(opset)) + text)
    rng = np.random.default_rng(0)
    for info in model.graph.value_info:
        tensor = info.type.tensor_type
        shape = [d.dim_value for d in tensor.shape.dim]
        array = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:]))) * 1.5
        model.graph.initializer.append(numpy_helper.from_array(array.astype(KINDS[tensor.elem_type]), info.name))
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def samples(model: onnx.ModelProto, count: int, seed: int = 1) -> dict[str, Any]:
    tensor = model.graph.input[0].type.tensor_type
    shape = [d.dim_value for d in tensor.shape.dim][1:]
    return {"x": np.random.default_rng(seed).standard_normal((count, *shape)).astype(KINDS[tensor.elem_type])}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_another_kind_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    """Perfect matter answers within rounding; phase-change memory stays related, and is scored."""
    model = drawn(name)
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    np.savez(tmp_path / "c.npz", **samples(model, 40))
    feed = samples(model, 5, seed=2)
    want = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, feed)
    for target in ("ideal", "pcm-generic"):
        profile, text = find_profile(target)
        done = compile_model(
            tmp_path / "m.onnx", tmp_path / "c.npz", profile, text, tmp_path / f"{target}.hyle", Options(instances=2)
        )
        assert len(done.manifest.layers) == MODELS[name][2]
        with open_bundle(tmp_path / f"{target}.hyle") as bundle:
            bundle.extract(tmp_path / target)
        for fused in (True, False):
            body = exact_body(tmp_path / target, done.manifest, profile, fused=fused)
            got = body.run(feed)
            for output, exact in zip(done.manifest.outputs, want, strict=True):
                assert got[output.name].shape == exact.shape
                assert got[output.name].dtype == exact.dtype
                extent = float(np.ptp(exact.astype(np.float64))) or 1.0
                error = float(np.abs(got[output.name].astype(np.float64) - exact.astype(np.float64)).max()) / extent
                assert error <= ((8 * 2**-10 if exact.dtype == np.float16 else 1e-5) if target == "ideal" else 0.5)
            assert body.self_test().residual < (0.01 if target == "ideal" else 0.5)
        found = evaluate_bundle(
            tmp_path / target, done.manifest, tmp_path / "c.npz", ages_s=[25.0], seeds=[1],
            float_model=tmp_path / "m.onnx",
        )  # fmt: skip
        assert found["exact"] >= (0.95 if target == "ideal" else 0.3)
