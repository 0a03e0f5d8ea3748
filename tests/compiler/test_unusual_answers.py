"""Answers that are not finite, depend on the batch, fill no batch, or are quantised between layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_bundle import open_bundle
from hyle_bundle.manifest import Manifest
from hyle_compiler.errors import CalibrationError, VerificationError
from hyle_compiler.evaluate import evaluate_bundle, exact_body
from hyle_compiler.exactness import check_ideal
from hyle_compiler.pipeline import Options, compile_model
from hyle_runtime.residual import residual_of
from hyle_substrates.profile import find_profile
from onnx import numpy_helper, parser

Array = np.ndarray[Any, Any]
HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
MASKED = """g (float[N,6] x) => (float[N,4] y, float[N,4] masked) {
  y = MatMul(x, w)  masked = Add(y, mask) }"""
FIRST_MASKED = """g (float[N,6] x) => (float[N,4] masked) { y = MatMul(x, w)  masked = Add(y, mask) }"""
ROOT = "g (float[N,6] x) => (float[N,4] y) { p = MatMul(x, w)  y = Sqrt(p) }"
DYNAMIC = """g (float[N,6] x) => (float[N,4] y) {
  q, s, z = DynamicQuantizeLinear(x)  d = DequantizeLinear(q, s, z)  y = MatMul(d, w) }"""
QUANTISED = """g (float[N,6] x) => (float[N,4] y)
  <float step = {0.0005}, uint16 middle = {32768}> {
  q = QuantizeLinear(x, step, middle)  d = DequantizeLinear(q, step, middle)
  v = DequantizeLinear<axis = 1>(w8, scales)  p = Gemm(d, v)
  r = QuantizeLinear(p, step, middle)  y = DequantizeLinear(r, step, middle) }"""
FIXED = """g (float[7,6] x) => (float[7,4] y) { y = MatMul(x, w) }"""


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def saved(folder: Path, text: str, samples: Array, **weights: Array) -> Path:
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, str(folder / "m.onnx"))
    np.savez(folder / "c.npz", x=samples)
    return folder / "m.onnx"


def compiled(model: Path, target: str) -> tuple[Path, Manifest]:
    profile, text = find_profile(target)
    out, files = model.with_name(f"{target}.hyle"), model.with_name(target)
    compile_model(model, model.with_name("c.npz"), profile, text, out, Options(instances=2))
    with open_bundle(out) as bundle:
        bundle.extract(files)
        return files, bundle.manifest


@pytest.mark.parametrize("target", ["ideal", "pcm-generic"])
@pytest.mark.parametrize("text", [MASKED, FIRST_MASKED])
def test_a_class_that_is_masked_out_says_nothing_of_the_matter(text: str, target: str, tmp_path: Path) -> None:
    mask = np.array([0, -np.inf, 0, 0], np.float32)
    model = saved(tmp_path, text, drawn(40, 6), w=drawn(6, 4), mask=mask)
    files, manifest = compiled(model, target)
    body = exact_body(files, manifest, find_profile(target)[0])
    found = body.self_test()
    assert found.passed
    assert 0.0 <= found.residual < 0.1
    assert np.array_equal(body.run({"x": drawn(3, 6)})["masked"][:, 1], np.full(3, -np.inf))


def test_answers_that_noise_makes_nan_are_refused_with_a_remedy(tmp_path: Path) -> None:
    """Products that are zero on the samples are a little less on noisy matter, and have no root."""
    weights = np.vstack([drawn(3, 4), np.zeros((3, 4), np.float32)])
    weights[3:] = -weights[:3]
    half = drawn(40, 3)
    model = saved(tmp_path, ROOT, np.hstack([half, half]), w=weights)
    with pytest.raises(VerificationError, match="NaN or infinity where the float model does not"):
        compiled(model, "pcm-generic")
    assert not model.with_name("pcm-generic.hyle").exists()


def test_only_answers_that_are_finite_in_the_exact_model_count() -> None:
    exact = np.array([[1.0, -np.inf], [np.nan, 2.0]])
    assert residual_of([(np.array([[1.5, 0.0], [3.0, 2.0]]), exact)]) == pytest.approx(0.5 / np.sqrt(5.0))
    assert np.isnan(residual_of([(np.array([[np.nan, 0.0], [3.0, 2.0]]), exact)]))


def test_answers_are_compared_in_more_than_their_own_range() -> None:
    """Float16 cannot say how far 40,000 is from -40,000."""
    want = np.array([[40000.0, -40000.0]], np.float16)
    with pytest.raises(VerificationError):
        check_ideal(want / 2, want, 1e-3)
    check_ideal(np.array([[np.inf, 1.0]]), np.array([[np.inf, 1.0]]), 1e-4)
    with pytest.raises(VerificationError):
        check_ideal(np.array([[1.0, 1.0]]), np.array([[np.inf, 1.0]]), 1e-4)


def test_a_model_that_looks_at_the_whole_batch_is_asked_in_the_same_batches(tmp_path: Path) -> None:
    """Its steps are a 255th of the batch's range, which is ten times as large from the fortieth sample on."""
    samples = drawn(60, 6)
    samples[40:] *= 10
    files, manifest = compiled(saved(tmp_path, DYNAMIC, samples, w=drawn(6, 4)), "ideal")
    assert not manifest.stackable
    assert exact_body(files, manifest, find_profile("ideal")[0]).self_test().passed


def test_weights_of_integers_stay_what_they_are(tmp_path: Path) -> None:
    """One scale a column, a hundred times apart: one for all of them would leave the small ones a step or two."""
    integers = np.random.default_rng(1).integers(-127, 128, (6, 4)).astype(np.int8)
    scales = np.array([0.0002, 0.02, 0.002, 0.011], np.float32)
    model = saved(tmp_path, QUANTISED, drawn(40, 6), w8=integers, scales=scales)
    files, manifest = compiled(model, "ideal")
    assert exact_body(files, manifest, find_profile("ideal")[0]).self_test().residual < 1e-4
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feed = {"x": drawn(40, 6, seed=2)}
    want = ort.InferenceSession(str(model), options).run(None, feed)[0]
    for fused in (True, False):
        got = exact_body(files, manifest, find_profile("ideal")[0], fused=fused).run(feed)["y"]
        assert np.mean(got != want) <= 0.01  # a sum on the edge between two codes may round either way
        assert np.abs(got - want).max() <= 0.0005 * 1.001


def test_samples_that_fill_no_batch_of_fixed_size_are_left_out_or_said_to_be_too_few(tmp_path: Path) -> None:
    model = saved(tmp_path, FIXED, drawn(40, 6), w=drawn(6, 4))
    files, manifest = compiled(model, "pcm-generic")
    np.savez(tmp_path / "e.npz", x=drawn(17, 6), labels=np.zeros(17, np.int64))
    found = evaluate_bundle(files, manifest, tmp_path / "e.npz", ages_s=[25.0], seeds=[1], float_model=model)
    assert found["samples"] == 14
    np.savez(tmp_path / "e.npz", x=drawn(6, 6))
    with pytest.raises(CalibrationError, match="batches of 7; there are 6"):
        evaluate_bundle(files, manifest, tmp_path / "e.npz", ages_s=[25.0], seeds=[1])
