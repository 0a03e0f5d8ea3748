"""A twin's converters answer the same whether onnxruntime takes the compiled operators or the graph's own functions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_bundle.manifest import Manifest
from hyle_compiler import converters
from hyle_compiler.evaluate import tensor_file
from hyle_runtime import kernels
from hyle_runtime.body import Body
from hyle_substrates.profile import Profile
from hyle_substrates.twin import TwinDriver
from onnx import helper
from test_twin_bodies import CASES, compiled, device

needs_library = pytest.mark.skipif(not kernels.LIBRARY.is_file(), reason="hyle was installed without a C compiler")


def seeded(folder: Path) -> onnx.ModelProto:
    """The twin's graph, which from now on draws the same numbers however onnxruntime orders its nodes."""
    twin = onnx.load(folder / "twin.onnx", load_external_data=False)
    for nodes in (twin.graph.node, *(function.node for function in twin.functions)):
        for node in nodes:
            if node.op_type == "RandomUniformLike":
                node.attribute.append(helper.make_attribute("seed", 7.0))
    onnx.save(twin, folder / "twin.onnx")
    return twin


def calls(twin: onnx.ModelProto) -> Counter[str]:
    return Counter(
        node.op_type.rstrip("0123456789")
        for function in twin.functions
        for node in function.node
        if node.domain == kernels.DOMAIN
    )


def answers(folder: Path, manifest: Manifest, profile: Profile, x: np.ndarray) -> np.ndarray:
    files = [tensor_file(folder / f"{name}.safetensors") for name in ("programming", "golden")]
    body = Body(folder, manifest, files[0], files[1], TwinDriver(profile, 5), threads=1)
    body.program()
    return np.concatenate([body.run({"x": part})["y"] for part in (x, x[:1], x[3:10])])


@needs_library
@pytest.mark.parametrize("case", CASES)
def test_both_ways_answer_the_same(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes, cols, copies, rows, levels, negative, ranges, how = CASES[case]
    profile, text = device(rows, levels, negative=negative, ranges=ranges)
    folder, manifest = compiled(tmp_path, axes, cols, copies, profile, text)
    (layer,) = manifest.layers
    reads = 0 if not negative else 1 if how == "joins" else len(layer.blocks)
    assert calls(seeded(folder)) == Counter({"Drive": 1, "Read": reads}) - Counter()
    x = np.random.default_rng(9).normal(size=(40, *([4] + [6] * axes if axes else [20]))).astype(np.float32)
    with_them = answers(folder, manifest, profile, x)
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "none.so")
    without = answers(folder, manifest, profile, x)
    assert np.array_equal(with_them, without)
    assert len(np.unique(with_them)) > 100


@needs_library
@pytest.mark.parametrize("case", ["two axes in bytes", "several blocks at once, a range for each sample"])
def test_onnxruntime_takes_the_operators(case: str, tmp_path: Path) -> None:
    axes, cols, copies, rows, levels, negative, ranges, _ = CASES[case]
    profile, text = device(rows, levels, negative=negative, ranges=ranges)
    folder, _ = compiled(tmp_path, axes, cols, copies, profile, text)
    twin = onnx.load(folder / "twin.onnx", load_external_data=False)
    for tensor in twin.graph.initializer:  # an instance's weights, which lie nowhere
        if any(entry.value == "instance" for entry in tensor.external_data):
            zeros = np.zeros(tuple(tensor.dims), dtype=np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    onnx.save(twin, folder / "twin.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    assert kernels.register(options)
    ort.InferenceSession(str(folder / "twin.onnx"), options)
    optimised = onnx.load(folder / "optimised.onnx", load_external_data=False)
    taken = [node.op_type.rstrip("0123456789") for node in optimised.graph.node if node.domain == kernels.DOMAIN]
    assert Counter(taken) == Counter({"Drive": 1, "Read": 1})


def test_converters_beyond_the_names_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converters, "VARIANTS", {"Drive": 1, "Read": 1})
    profile, text = device(20, 127, negative=True, ranges="dynamic")
    folder, manifest = compiled(tmp_path, 2, 5, 4, profile, text)
    # Two blocks whose reads differ in nothing have one definition.
    assert calls(seeded(folder)) == Counter({"Drive": 1, "Read": 2})
    monkeypatch.setattr(converters, "VARIANTS", {"Drive": 0, "Read": 0})
    (tmp_path / "other").mkdir()
    plain, manifest = compiled(tmp_path / "other", 2, 5, 4, profile, text)
    assert calls(seeded(plain)) == Counter()
    x = np.random.default_rng(9).normal(size=(12, 4, 6, 6)).astype(np.float32)
    assert np.array_equal(answers(folder, manifest, profile, x), answers(plain, manifest, profile, x))


def test_a_library_that_does_not_load_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "converters.so").write_bytes(b"of another machine")
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "converters.so")
    assert not kernels.register(ort.SessionOptions())
    assert not kernels.register(ort.SessionOptions())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not load" in caplog.text


@needs_library
def test_operators_that_onnxruntime_refuses_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    profile, text = device(36, 127, negative=True, ranges="static")
    folder, manifest = compiled(tmp_path, 2, 5, 4, profile, text)
    x = np.random.default_rng(9).normal(size=(12, 4, 6, 6)).astype(np.float32)
    seeded(folder)
    before = answers(folder, manifest, profile, x)
    assert not caplog.records
    twin = onnx.load(folder / "twin.onnx", load_external_data=False)
    for function in twin.functions:
        for node in function.node:
            for attribute in node.attribute:
                if node.domain == kernels.DOMAIN and attribute.name == "levels":
                    attribute.i = -1
    onnx.save(twin, folder / "twin.onnx")
    assert np.array_equal(answers(folder, manifest, profile, x), before)
    assert "an attribute is out of range" in caplog.text
