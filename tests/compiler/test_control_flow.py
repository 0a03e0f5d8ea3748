"""Layers inside If, Loop, Scan and functions go on physics; the host runs the control flow around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_compiler.backend import HyleBackend
from hyle_compiler.evaluate import exact_body
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import parser

Array = np.ndarray[Any, Any]
LAW = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
EPS = float(np.finfo(np.float32).eps)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
MODELS = {
    "branches": (
        """g (float[3,4] x, bool c) => (float[3,4] y)
        <float[4,4] w, float[4,4] v> {
          r = Relu(x)
          z = If(c) <then_branch = t () => (float[3,4] a) { h = MatMul(r, w)  a = Tanh(h) },
                     else_branch = e () => (float[3,4] a) { h = MatMul(x, v)  a = MatMul(h, w) }>
          y = Add(z, x) }""",
        [{"c": np.array(True)}, {"c": np.array(False)}],
        3,
    ),
    "a loop that counts": (
        """g (float[3,4] x) => (float[3,4] y, float[s,3,4] all)
        <float[4,4] w, int64 m = {5}, bool on = {1}> {
          y, all = Loop(m, on, x) <body = b (int64 i, bool go, float[3,4] s) => (bool on2, float[3,4] n, float[3,4] k)
            { h = MatMul(s, w)  n = Tanh(h)  k = Add(n, x)  on2 = Identity(go) }> }""",
        [{}],
        1,
    ),
    "a loop that stops by itself": (
        """g (float[3,4] x, float limit) => (float[3,4] y, int64 turns)
        <float[4,4] w, int64 m = {40}, bool on = {1}, int64 zero = {0}, int64 one = {1}> {
          y, turns = Loop(m, on, x, zero) <body = b (int64 i, bool go, float[3,4] s, int64 t)
              => (bool on2, float[3,4] n, int64 u)
            { h = MatMul(s, w)  n = Tanh(h)  p = Mul(n, n)  q = ReduceMean<keepdims=0>(p)  on2 = Less(q, limit)
              u = Add(t, one) }> }""",
        [{"limit": np.array(0.9, np.float32)}, {"limit": np.array(0.0, np.float32)}],
        1,
    ),
    "a scan of convolutions": (
        """g (float[2,1,3,6] x) => (float[2,4,6] y, float[2,1,4,6] all)
        <float[4,7,3] w, float[4] bias, float[2,4,6] zero> {
          y, all = Scan(zero, x) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
              scan_output_directions = [1],
              body = b (float[2,4,6] s, float[2,3,6] f) => (float[2,4,6] n, float[2,4,6] k)
            { j = Concat<axis = 1>(s, f)  h = Conv<pads = [1, 1]>(j, w, bias)  n = Tanh(h)  k = Mul(n, n) }> }""",
        [{}],
        1,
    ),
    "a branch inside a loop": (
        """g (float[3,4] x) => (float[3,4] y, float[s,3,4] all)
        <float[4,4] w, float[4,2] v, float[2,4] u, int64 m = {4}, bool on = {1}, int64 one = {1}, int64 two = {2}> {
          y, all = Loop(m, on, x) <body = b (int64 i, bool go, float[3,4] s) => (bool on2, float[3,4] n, float[3,4] k)
            { r = Mod(i, two)  c = Equal(r, one)
              n = If(c) <then_branch = t () => (float[3,4] a) { h = MatMul(s, w)  a = Tanh(h) },
                         else_branch = e () => (float[3,4] a) { h = MatMul(s, v)  a = MatMul(h, u) }>
              k = MatMul(n, w)  on2 = Identity(go) }> }""",
        [{}],
        4,
    ),
    "layers before, inside and after": (
        """g (float[3,4] x) => (float[3,2] y)
        <float[4,4] w, float[4,4] u, float[4,2] v, int64 m = {3}, bool on = {1}> {
          a = MatMul(x, u)
          b = Relu(a)
          z = Loop(m, on, b) <body = l (int64 i, bool go, float[3,4] s) => (bool on2, float[3,4] n)
            { h = MatMul(s, w)  j = MatMul(x, u)  k = Add(h, j)  n = Tanh(k)  on2 = Identity(go) }>
          y = MatMul(z, v) }""",
        [{}],
        4,
    ),
}


def drawn(text: str, seed: int = 0) -> onnx.ModelProto:
    """The model with drawn weights for what is declared and not given."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for info in model.graph.value_info:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def sample(model: onnx.ModelProto, seed: int = 1) -> Array:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_ideal_matter_answers_as_onnxruntime_does(name: str) -> None:
    """At most 40 turns of a product of at most 21 rows and a function that does not stretch: rounding adds up."""
    _, feeds, layers = MODELS[name]
    model = drawn(HEAD + MODELS[name][0])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rep = HyleBackend.prepare(model)
    for extra in feeds:
        feed = {"x": sample(model), **extra}
        want, got = session.run(None, feed), rep.run(feed)
        for a, b in zip(want, got, strict=True):
            assert a.shape == b.shape
            extent = max(1.0, float(np.abs(a).max(initial=0.0)))
            np.testing.assert_allclose(b, a, rtol=0, atol=2 * 21 * 40 * EPS * extent)
    assert len(rep.layers) == layers


@pytest.mark.parametrize("name", [name for name in MODELS if name != "a loop that stops by itself"])
def test_the_program_and_the_driver_see_the_same_physics(name: str) -> None:
    """Without noise both round to the same codes but where a sum lies near a half: few answers, by a few codes."""
    model = drawn(HEAD + MODELS[name][0])
    for extra in MODELS[name][1]:
        feed = {"x": sample(model), **extra}
        rep = HyleBackend.prepare(model, target="pcm-generic")
        rep.run(feed)
        stepped, fused = (
            exact_body(rep.folder, rep.manifest, rep.profile, fused=fused).run(feed) for fused in (False, True)
        )
        for output, a in stepped.items():
            extent = float(np.abs(a).max(initial=0.0)) or 1.0
            assert np.median(np.abs(a - fused[output])) <= 1e-5 * extent
            assert np.abs(a - fused[output]).max(initial=0.0) <= 2 * 12 / 255 * 4 * extent


@LAW
@given(st.integers(0, 6), st.integers(0, 99))
def test_a_loop_runs_as_often_as_it_is_told(turns: int, seed: int) -> None:
    text = """g (float[2,3] x, int64 m) => (float[2,3] y, float[s,2,3] all)
        <float[3,3] w, bool on = {1}> {
          y, all = Loop(m, on, x) <body = b (int64 i, bool go, float[2,3] s) => (bool on2, float[2,3] n, float[2,3] k)
            { h = MatMul(s, w)  n = Tanh(h)  k = Identity(n)  on2 = Identity(go) }> }"""
    model = drawn(HEAD + text, seed)
    feed = {"x": sample(model, seed), "m": np.array(turns)}
    want = ort.InferenceSession(model.SerializeToString()).run(None, feed)
    rep = HyleBackend.prepare(model)
    got = rep.run(feed)
    assert rep.layers
    assert got[1].shape == (turns, 2, 3)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2 * 3 * 6 * EPS)


def test_functions_are_inlined() -> None:
    text = (
        HEAD.replace('"" : 17', '"" : 17, "mine" : 1')
        + """
        g (float[3,4] x) => (float[3,2] y) <float[4,4] w, float[4,2] v> { h = mine.dense(x, w)  y = mine.dense(h, v) }
        <domain: "mine", opset_import: ["" : 17]> dense (a, b) => (c) { p = MatMul(a, b)  c = Relu(p) }"""
    )
    model = drawn(text)
    x = sample(model)
    rep = HyleBackend.prepare(model)
    (got,) = rep.run([x])
    (want,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=0, atol=2 * 8 * EPS * 16)
    assert len(rep.layers) == 2
