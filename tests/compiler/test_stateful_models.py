"""Models that are asked one feed at a time: a state between the answers, a number beside the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_bundle import open_bundle
from hyle_compiler.adapt.method import AdaptError
from hyle_compiler.errors import CalibrationError, ModelError
from hyle_compiler.evaluate import evaluate_bundle, exact_body
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import numpy_helper, parser

# The way in which torch writes an LSTMCell: within a branch, its gates put together anew from slices of the weights.
STEP = """<ir_version: 8, opset_import: ["" : 16]>
g (float[N,12] x, float[2,N,8] state, int64 rate) => (float[N,3] y, float[2,N,8] after) {
  fast = Equal(rate, sixteen)
  zero = Constant<value = int64 {0}>()  one = Constant<value = int64 {1}>()
  h = Gather<axis = 0>(state, zero)  c = Gather<axis = 0>(state, one)
  hn, cn = If(fast) <then_branch = t () => (float[N,8] ht, float[N,8] ct) {
      axes = Constant<value = int64[1] {0}>()
      s1 = Constant<value = int64[1] {0}>()  e1 = Constant<value = int64[1] {8}>()
      s2 = Constant<value = int64[1] {16}>()  e2 = Constant<value = int64[1] {32}>()
      s3 = Constant<value = int64[1] {8}>()  e3 = Constant<value = int64[1] {16}>()
      w1 = Slice(wi, s1, e1, axes)  w2 = Slice(wi, s2, e2, axes)  w3 = Slice(wi, s3, e3, axes)
      w = Concat<axis = 0>(w1, w2, w3)  w4 = Unsqueeze(w, axes)
      r1 = Slice(wh, s1, e1, axes)  r2 = Slice(wh, s2, e2, axes)  r3 = Slice(wh, s3, e3, axes)
      r = Concat<axis = 0>(r1, r2, r3)  r4 = Unsqueeze(r, axes)
      x1 = Unsqueeze(x, axes)  h1 = Unsqueeze(h, axes)  c1 = Unsqueeze(c, axes)
      none, hs, cs = LSTM<hidden_size = 8>(x1, w4, r4, , , h1, c1)
      ht = Squeeze(hs, axes)  ct = Squeeze(cs, axes) },
    else_branch = e () => (float[N,8] he, float[N,8] ce) { he = Tanh(h)  ce = Identity(c) }>
  hr = Relu(hn)  y = MatMul(hr, wo)
  first = Constant<value = int64[1] {0}>()
  ha = Unsqueeze(hn, first)  ca = Unsqueeze(cn, first)  after = Concat<axis = 0>(ha, ca) }"""
COUNT = 48


def normal(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and its samples, each array with an axis more than the input that it is for."""
    folder = tmp_path_factory.mktemp("stateful")
    made = parser.parse_model(STEP)
    values = {"wi": normal(0, 32, 12) / 3, "wh": normal(1, 32, 8) / 3, "wo": normal(2, 8, 3)}
    for name, array in {**values, "sixteen": np.array(16000)}.items():
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(made, str(folder / "m.onnx"))
    np.savez(folder / "c.npz", x=normal(3, COUNT, 1, 12), state=0.3 * normal(4, COUNT, 2, 1, 8),
             rate=np.full(COUNT, 16000))  # fmt: skip
    return folder


def compiled(folder: Path, out: Path, target: str, **options: Any) -> Any:
    profile, text = find_profile(target)
    return compile_model(folder / "m.onnx", folder / "c.npz", profile, text, out, Options(instances=2, **options))


@pytest.mark.parametrize("target", ["ideal", "pcm-generic"])
def test_a_state_goes_from_answer_to_request(folder: Path, tmp_path: Path, target: str) -> None:
    """Both matrices of the cell are on physics, and ten steps with the answered state stay beside the float model."""
    done = compiled(folder, tmp_path / "o.hyle", target)
    assert len(done.manifest.layers) == 3
    assert not done.manifest.stackable
    assert done.manifest.golden.samples == 32
    with open_bundle(tmp_path / "o.hyle") as bundle:
        bundle.extract(tmp_path / "files")
    body = exact_body(tmp_path / "files", done.manifest, find_profile(target)[0])
    assert body.self_test().residual <= (1e-5 if target == "ideal" else 0.1)
    session = ort.InferenceSession(str(folder / "m.onnx"))
    state = [np.zeros((2, 1, 8), np.float32)] * 2
    apart = []
    for step in range(10):
        feed = {"x": normal(10 + step, 1, 12), "rate": np.array(16000)}
        want, state[0] = session.run(None, {**feed, "state": state[0]})
        got = body.run({**feed, "state": state[1]})
        state[1] = got["after"]
        apart.append(float(np.abs(got["y"] - want).max()))
    assert max(apart) <= (1e-5 if target == "ideal" else 0.1)
    found = evaluate_bundle(
        tmp_path / "files", done.manifest, folder / "c.npz", ages_s=[25.0], seeds=[1], float_model=folder / "m.onnx"
    )
    assert found["float"] == 1.0


def test_samples_that_are_not_counted_alike_are_told_the_way(folder: Path, tmp_path: Path) -> None:
    with np.load(folder / "c.npz") as file:
        arrays = {name: file[name] for name in file.files}
    (tmp_path / "m.onnx").write_bytes((folder / "m.onnx").read_bytes())
    way, shape = "an axis more", "('samples', 2, 'any', 8)"
    for wrong, words in (
        ({"x": arrays["x"][:, 0], "state": arrays["state"][0], "rate": np.array(16000)}, way),
        ({**arrays, "state": arrays["state"][:, :, :, :7]}, shape),
        ({**arrays, "rate": arrays["rate"][:5]}, way),
    ):
        np.savez(tmp_path / "c.npz", **wrong)
        with pytest.raises(CalibrationError) as refusal:
            compiled(tmp_path, tmp_path / "o.hyle", "ideal")
        assert words in f"{refusal.value.message} {refusal.value.remedy}"
    assert not (tmp_path / "o.hyle").exists()


def test_what_needs_batches_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdaptError, match="in batches"):
        compiled(folder, tmp_path / "o.hyle", "pcm-generic", adapt="none")
    with pytest.raises(ModelError, match="layer by layer"):
        compiled(folder, tmp_path / "o.hyle", "pcm-generic", stream=True)
