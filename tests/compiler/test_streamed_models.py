from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from compiler_models import MNIST, ROOT, Compile, Opened
from hyle_bundle import open_bundle
from hyle_compiler.build import Identity
from hyle_compiler.errors import CalibrationError, ModelError, OutputError
from hyle_compiler.evaluate import exact_body, run_batches, tensor_file
from hyle_compiler.inputs import input_specs
from hyle_compiler.partition import partition
from hyle_compiler.pipeline import Options, compile_model
from hyle_compiler.read import read_model
from hyle_compiler.samples import load_samples
from hyle_compiler.simplify import simplify
from hyle_compiler.stream.build import build_streamed
from hyle_compiler.stream.plan import plan
from hyle_compiler.value_types import type_values
from hyle_substrates.profile import find_profile

sys.path.insert(0, str(ROOT / "benchmarks"))
from gpt_models import SIZES, build_model, write_samples

TINY = SIZES["tiny"]
IDENTITY = Identity("m", "1", 1, 0, "0" * 64)


@pytest.fixture(autouse=True)
def no_matrix_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyle_compiler.matrices.STORED_BYTES", 1)
    monkeypatch.setattr("hyle_compiler.read.SMALL_BYTES", 1)


def tiny(folder: Path, **options: Any) -> Path:
    path = build_model(folder, TINY, **options)
    write_samples(folder / "calib.npz", TINY, 6, 8)
    return path


def compiled(path: Path, target: str, out: Path, **options: Any) -> Opened:
    profile, text = find_profile(target)
    done = compile_model(path, path.parent / "calib.npz", profile, text, out, Options(**{"instances": 2} | options))
    with open_bundle(out) as bundle:
        bundle.extract(out.with_suffix(""))
        return Opened(done, out.with_suffix(""), bundle.manifest)


@pytest.mark.parametrize("target", ["ideal", "pcm-generic"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_weights_of_a_streamed_model_are_those_of_a_whole_one(tmp_path: Path, target: str, dtype: str) -> None:
    path = tiny(tmp_path / "m", dtype=dtype)
    whole = compiled(path, target, tmp_path / "whole.hyle", stream=False)
    streamed = compiled(path, target, tmp_path / "streamed.hyle", stream=True)
    files = [tensor_file(one.folder / "programming.safetensors") for one in (whole, streamed)]
    assert {layer.name for layer in streamed.manifest.layers} == {layer.name for layer in whole.manifest.layers}
    for layer in whole.manifest.layers:
        for block in layer.blocks:
            assert np.array_equal(*(file.array(block.levels) for file in files))
        assert np.array_equal(*(file.array(layer.offset) for file in files))


@pytest.mark.parametrize("target", ["ideal", "pcm-generic", "sram-mc2ram", "slm-wang2022", "mrr-16", "rram-neurram"])
def test_the_walk_answers_as_the_bundle_does_on_exact_matter(tmp_path: Path, target: str) -> None:
    profile, _ = find_profile(target)
    model = simplify(read_model(MNIST / "model.onnx"))
    samples = load_samples(MNIST / "calib.npz", input_specs(model))
    chosen = plan(samples, input_specs(model), profile, 0, 1, (25.0,))
    built = build_streamed(tmp_path, model, partition(model, stored=True).physical, chosen, profile, IDENTITY, print)
    output = built.manifest.outputs[0].name
    walked = built.answers[chosen.variants[1]][output]
    body = exact_body(tmp_path, built.manifest, profile, fused=False)
    answers = run_batches(body, chosen.samples.head(chosen.verified), output)
    # Both round the same sums, added in another order: one on the edge between two ADC codes may fall either way.
    assert np.abs(walked - answers).max() <= 0.02 * np.ptp(answers)
    assert np.median(np.abs(walked - answers)) <= 1e-5 * np.ptp(answers)


def test_a_streamed_bundle_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m")
    digests = {compiled(path, "pcm-generic", tmp_path / f"{i}.hyle", stream=True).compiled.digest for i in range(2)}
    assert len(digests) == 1


def test_weights_over_several_files_are_found_and_a_shared_one_is_stored_once(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m", shard_bytes=60_000)
    assert len(list(path.parent.glob("*.data"))) > 2
    one = compiled(path, "ideal", tmp_path / "o.hyle", stream=True)
    names = tensor_file(one.folder / "programming.safetensors").names
    assert [name for name in names if "wte" in name] == ["digital/wte"]
    assert not [name for name in names if name.startswith("digital/h0.qkv.w")]


def test_perfect_matter_keeps_half_precision_weights_in_their_own_size(tmp_path: Path) -> None:
    one = compiled(tiny(tmp_path / "m"), "ideal", tmp_path / "o.hyle", stream=True)
    block = one.manifest.layers[0].blocks[0]
    assert tensor_file(one.folder / "programming.safetensors").spec(block.levels).dtype == "F16"


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny(tmp_path / "m")
    (tmp_path / "out").mkdir()
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("hyle_compiler.stream.plan.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OutputError, match=r"needs 0\.\d+ GB beside the output") as refusal:
        compiled(path, "ideal", tmp_path / "out" / "o.hyle", stream=True)
    assert "larger disk" in refusal.value.remedy
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("name", "bad"),
    [("h1.fc.weight", np.nan), ("h1.fc.weight", np.inf), ("h1.fc.weight", -np.inf), ("wte", np.nan)],
)
def test_a_weight_that_is_not_finite_is_refused_and_nothing_is_left(tmp_path: Path, bad: float, name: str) -> None:
    path = tiny(tmp_path / "m")
    tensor = next(t for t in onnx.load(path, load_external_data=False).graph.initializer if t.name == name)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with (path.parent / entries["location"]).open("rb+") as file:
        file.seek(int(entries["offset"]) + 200)
        file.write(np.array(bad, dtype=np.float16).tobytes())
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=f"{name.replace('.weight', '')}.*NaN"):
        compiled(path, "pcm-generic", tmp_path / "out" / "o.hyle", stream=True)
    assert not list((tmp_path / "out").iterdir())


def test_what_streaming_cannot_do_is_said(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m")
    with pytest.raises(ModelError, match="layer by layer") as refusal:
        compiled(path, "pcm-generic", tmp_path / "o.hyle", stream=True, max_drop=0.01)
    assert "--stream never" in refusal.value.remedy


def test_a_model_of_fixed_batches_wants_as_many_samples(compile_for: Compile, tmp_path: Path) -> None:
    path = tiny(tmp_path / "m")
    model = ir.load(path)
    profile, _ = find_profile("ideal")
    samples = load_samples(path.parent / "calib.npz", input_specs(model))
    model.graph.inputs[0].shape = ir.Shape([16, 8])
    with pytest.raises(CalibrationError, match="batches of 16"):
        plan(samples, input_specs(model), profile, 0, 1, (25.0,))


MEASURED = """
import json, sys
from pathlib import Path
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
folder, target = Path(sys.argv[1]), sys.argv[2]
profile, text = find_profile(target)
compile_model(folder / "model.onnx", folder / "calib.npz", profile, text, folder / "out.hyle", Options(instances=1))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"peak": int(status["VmHWM"].split()[0]) << 10}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("target", ["ideal", "pcm-generic"])
def test_fifty_million_parameters_stay_within_the_promised_memory(tmp_path: Path, target: str) -> None:
    shape = SIZES["0.05"]
    build_model(tmp_path, shape, dtype="float32", filled=0.1)
    write_samples(tmp_path / "calib.npz", shape, 2, 8)
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), target], check=True, stdout=subprocess.PIPE, text=True
    )
    largest = 4 * shape.words * shape.width
    # The promise is 1 GiB + twice the largest tensor; with half of that GiB no multiple of the model goes unseen.
    assert json.loads(run.stdout)["peak"] <= (1 << 29) + 2 * largest


OF_ORT = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[N,200] x) => (float[N,5] y) {
  a = MatMul(x, w1)  b = com.microsoft.QuickGelu(a)  c = MatMul(b, w2)  d = com.microsoft.QuickGelu(c)
  e = Add(d, b)  y = MatMul(e, w3) }"""


def test_values_whose_type_only_onnxruntime_knows_are_typed_without_reading_the_weights(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(OF_ORT)
    random = np.random.default_rng(0)
    for name, shape in (("w1", (200, 120)), ("w2", (120, 120)), ("w3", (120, 5))):
        weights = random.standard_normal(shape).astype(np.float32) / 10
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(model, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "calib.npz", x=random.standard_normal((16, 200)).astype(np.float32))
    opened = compiled(tmp_path / "m.onnx", "ideal", tmp_path / "o.hyle", stream=True)
    body = exact_body(opened.folder, opened.manifest, find_profile("ideal")[0], fused=False)
    x = random.standard_normal((7, 200)).astype(np.float32)
    want = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    assert np.allclose(body.run({"x": x})["y"], want, atol=1e-4)
    asked = tmp_path / "asked"
    asked.mkdir()
    model = read_model(tmp_path / "m.onnx")
    type_values(model, asked, weightless=True)
    assert all(value.type is not None for node in model.graph for value in node.outputs)
    assert sum(path.stat().st_size for path in asked.iterdir()) < 10_000


MEANS = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,20] x) => (float[N,5] y, float[5] m)
  <int64[1] first = {0}> { y = MatMul(x, w)  m = ReduceMean<keepdims = 0>(y, first) }"""


def test_an_output_that_counts_no_samples_is_not_held_against_that_of_fewer(tmp_path: Path) -> None:
    """Twins run half of the samples, whose mean is another one."""
    model = onnx.parser.parse_model(MEANS)
    random = np.random.default_rng(0)
    model.graph.initializer.append(onnx.numpy_helper.from_array(random.standard_normal((20, 5)).astype("f4"), "w"))
    onnx.save(model, str(tmp_path / "m.onnx"))
    x = random.standard_normal((32, 20)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x + np.float32(100) * (np.arange(32) >= 16)[:, None].astype(np.float32))
    opened = compiled(tmp_path / "m.onnx", "pcm-generic", tmp_path / "o.hyle", stream=True)
    assert "output/m" not in tensor_file(opened.folder / "golden.safetensors").names
    model.graph.output.reverse()
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match="does not count samples"):
        compiled(tmp_path / "m.onnx", "pcm-generic", tmp_path / "o.hyle", stream=True)


CHAIN = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,20] x) => (float[N,5] y, float[N,9] a) {
  a = MatMul(x, w1)  b = MatMul(a, w2)  y = MatMul(b, w3) }"""


def test_a_layer_may_feed_the_next_with_nothing_between(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(CHAIN)
    random = np.random.default_rng(0)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in ((20, 9), (9, 7), (7, 5))]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, f"w{i + 1}") for i, w in enumerate(weights))
    onnx.save(model, str(tmp_path / "m.onnx"))
    x = random.standard_normal((16, 20)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)
    opened = compiled(tmp_path / "m.onnx", "ideal", tmp_path / "o.hyle", stream=True)
    assert len(opened.manifest.layers) == 3
    for fused in (True, False):
        got = exact_body(opened.folder, opened.manifest, find_profile("ideal")[0], fused=fused).run({"x": x})
        assert np.allclose(got["y"], x @ weights[0] @ weights[1] @ weights[2], atol=1e-3)
        assert np.allclose(got["a"], x @ weights[0], atol=1e-4)
