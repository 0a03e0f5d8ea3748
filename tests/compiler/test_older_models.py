"""Models as older exporters wrote them: opsets before the oldest, and what the optimizer makes of the oldest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_bundle import open_bundle
from hyle_compiler import older_opset
from hyle_compiler.errors import ModelError
from hyle_compiler.evaluate import exact_body
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import TensorProto, helper, numpy_helper, parser

HEAD = '<ir_version: {ir}, opset_import: ["" : {opset}]>\n'
OLD = {
    # Upsample, axes of Unsqueeze and Squeeze as attributes, a Softmax that flattens, Clip with attributes.
    9: """g (float[N,3,8,8] x) => (float[N,5] y) {
      c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x, k)
      r = Clip<min = 0.0, max = 6.0>(c)  u = Upsample<mode = "nearest">(r, scales)
      p = GlobalAveragePool(u)  q = Squeeze<axes = [2, 3]>(p)  d = Dropout<ratio = 0.5>(q)
      z = Gemm(d, w, b)  y = Softmax<axis = 1>(z) }""",
    # Slice and Pad with inputs, ReduceMean and ReduceSum with axes as attributes, a reshape by computed sizes.
    11: """g (float[N,3,8,8] x) => (float[N,5] y) {
      a = Pad(x, pads)  c = Conv<kernel_shape = [3, 3], strides = [2, 2]>(a, k)  r = Relu(c)
      m = ReduceMean<axes = [2], keepdims = 0>(r)  s = ReduceSum<axes = [2], keepdims = 0>(m)
      size = Shape(s)  first = Gather<axis = 0>(size, zero)  n = Unsqueeze<axes = [0]>(first)
      to = Concat<axis = 0>(n, minus)  f = Reshape(s, to)  z = Gemm(f, w, b)  y = LogSoftmax<axis = 1>(z) }""",
    12: """g (float[N,3,8,8] x) => (float[N,5] y) {
      c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x, k)
      t = Clip(c, low, high)  p = AveragePool<kernel_shape = [4, 4]>(t)  q = Flatten(p)
      z = Gemm(q, w, b)  i = Unsqueeze<axes = [1]>(z)  y = Squeeze<axes = [1]>(i) }""",
    # Of the oldest opset that is compiled as it is: the optimizer gives this reshape an attribute of opset 14.
    13: """g (float[4,3,8,8] x) => (float[4,5] y) {
      c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x, k)  p = GlobalAveragePool(c)
      size = Shape(p)  first = Gather<axis = 0>(size, zero)  n = Unsqueeze(first, axis)
      to = Concat<axis = 0>(n, minus)  f = Reshape(p, to)  y = Gemm(f, w, b) }""",
    # The optimizer makes a Split of this sequence, with an attribute of opset 18.
    17: """g (float[N,3,8,8] x) => (float[N,5] y) {
      c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x, k)  p = GlobalAveragePool(c)
      f = Flatten(p)  parts = SplitToSequence<axis = 1>(f, half)  first = SequenceAt(parts, zero)
      second = SequenceAt(parts, minus_one)  g = Concat<axis = 1>(second, first)  y = Gemm(g, w, b) }""",
}


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


VALUES = {
    "k": normal(6, 3, 3, 3),
    "w": normal(6, 5),
    "b": normal(5),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    "low": np.array(-1.0, np.float32),
    "high": np.array(1.0, np.float32),
    "zero": np.array(0, np.int64),
    "axis": np.array([0], np.int64),
    "minus": np.array([-1], np.int64),
    "minus_one": np.array(-1, np.int64),
    "half": np.array(3, np.int64),
}


def written(folder: Path, opset: int, ir: int = 6) -> Path:
    """The model and its samples, `c.npz`; before version 4 of the format weights are among the inputs, too."""
    text = HEAD.format(ir=ir, opset=opset) + OLD[opset]
    made = parser.parse_model(text)
    read = {name for node in made.graph.node for name in node.input}
    for name in sorted(read & VALUES.keys()):
        tensor = numpy_helper.from_array(VALUES[name], name)
        made.graph.initializer.append(tensor)
        if ir < 4:
            made.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    onnx.save(made, str(folder / "m.onnx"))
    np.savez(folder / "c.npz", x=normal(40, 3, 8, 8))
    return folder / "m.onnx"


@pytest.mark.parametrize(("opset", "ir"), [(9, 3), (9, 4), (11, 6), (12, 7), (13, 7), (17, 8)])
def test_a_model_of_an_older_opset_goes_the_whole_way(opset: int, ir: int, tmp_path: Path) -> None:
    path = written(tmp_path, opset, ir)
    profile, text = find_profile("ideal")
    done = compile_model(path, tmp_path / "c.npz", profile, text, tmp_path / "o.hyle", Options())
    assert len(done.manifest.layers) == 2
    feed = {"x": normal(4, 3, 8, 8)}
    want = ort.InferenceSession(str(path)).run(None, feed)[0]
    with open_bundle(tmp_path / "o.hyle") as bundle:
        bundle.extract(tmp_path / "files")
    got = exact_body(tmp_path / "files", done.manifest, profile).run(feed)["y"]
    assert np.abs(got - want).max() <= 1e-4 * np.ptp(want)


def test_an_opset_that_is_named_twice_is_brought_up_too(tmp_path: Path) -> None:
    """Scikit-learn's converter writes such files; onnx raises only the first of the two."""
    path = written(tmp_path, 11)
    made = onnx.load(str(path))
    made.opset_import.append(helper.make_opsetid("", 11))
    onnx.save(made, str(path))
    profile, text = find_profile("ideal")
    done = compile_model(path, tmp_path / "c.npz", profile, text, tmp_path / "o.hyle", Options())
    assert len(done.manifest.layers) == 2


def test_a_conversion_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
        made = convert(proto, version)
        weight = next(tensor for tensor in made.graph.initializer if tensor.name == "b")
        weight.CopyFrom(numpy_helper.from_array(VALUES["b"] * np.float32(1.01), "b"))
        return made

    convert = older_opset.version_converter.convert_version
    monkeypatch.setattr(older_opset.version_converter, "convert_version", wrong)
    path = written(tmp_path, 12)
    profile, text = find_profile("ideal")
    with pytest.raises(ModelError, match="answers otherwise in 'y'") as refusal:
        compile_model(path, tmp_path / "c.npz", profile, text, tmp_path / "o.hyle", Options())
    assert "opset 13" in refusal.value.remedy
    assert not (tmp_path / "o.hyle").exists()


def test_a_mask_of_infinities_is_a_value_like_others(tmp_path: Path) -> None:
    """Attention with a causal mask among its weights, as many exporters write it."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,6,8] x) => (float[N,6,8] y) {
      q = MatMul(x, wq)  v = MatMul(x, wv)  t = Transpose<perm = [0, 2, 1]>(x)  s = MatMul(q, t)
      m = Add(s, mask)  a = Softmax<axis = -1>(m)  y = MatMul(a, v) }"""
    made = parser.parse_model(text)
    mask = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    for name, array in {"wq": normal(8, 8) * 0.3, "wv": normal(8, 8), "mask": mask}.items():
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(made, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=normal(40, 6, 8))
    profile, text = find_profile("pcm-generic")
    done = compile_model(
        tmp_path / "m.onnx", tmp_path / "c.npz", profile, text, tmp_path / "o.hyle", Options(instances=2)
    )
    assert len(done.manifest.layers) == 2
    assert done.manifest.golden.tolerance < 1.0


def test_answers_that_are_nothing_but_rounding_are_no_fault_of_the_compiler(tmp_path: Path) -> None:
    """A detector that sees nothing: one less a number close to one, in steps of 2**-24."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,64] x) => (float[N,16] y) {
      a = MatMul(x, w)  b = Tanh(a)  c = MatMul(b, v)  d = Sub(shift, c)  e = Sigmoid(d)  y = Sub(one, e) }"""
    made = parser.parse_model(text)
    values = {
        "w": normal(64, 64),
        "v": 0.05 * normal(64, 16),
        "shift": np.array(15.5, np.float32),
        "one": np.array(1.0, np.float32),
    }
    for name, array in values.items():
        made.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(made, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=normal(60, 64))
    assert made.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    profile, text = find_profile("ideal")
    done = compile_model(tmp_path / "m.onnx", tmp_path / "c.npz", profile, text, tmp_path / "o.hyle", Options())
    assert len(done.manifest.layers) == 2
