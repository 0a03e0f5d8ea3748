"""What a bundle must be, whatever the model: true to the float model, portable, and the same every time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from compiler_models import Compile, model_folder, samples_of
from hyle_compiler.evaluate import evaluate_bundle, exact_body, run_batches, specs_of
from hyle_compiler.samples import load_samples
from hyle_substrates.profile import decode_profile

IN_REPOSITORY = ["digits_mlp", "digits_cnn", "digits_tiny_transformer", "mnist_lenet5"]
ELSEWHERE = ["mlperf_tiny_ic_resnet8", "mlperf_tiny_kws_dscnn"]


def float_answers(folder: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(str(folder / "model.onnx"))
    count = len(next(iter(arrays.values())))
    parts = [session.run(None, {n: a[i : i + 50] for n, a in arrays.items()})[0] for i in range(0, count, 50)]
    return np.concatenate(parts)


@pytest.mark.parametrize("name", IN_REPOSITORY + ELSEWHERE)
def test_on_perfect_matter_every_answer_is_the_float_models(name: str, compile_for: Compile, tmp_path: Path) -> None:
    opened = compile_for(name, "ideal")
    folder = model_folder(name)
    samples = load_samples(samples_of(folder, "eval", tmp_path / "eval.npz"), specs_of(opened.manifest))
    profile = decode_profile((opened.folder / "profile.toml").read_bytes())
    want = float_answers(folder, samples.arrays)
    for fused in (True, False):
        body = exact_body(opened.folder, opened.manifest, profile, fused=fused)
        got = run_batches(body, samples, opened.manifest.outputs[0].name)
        assert np.abs(got - want).max() <= 1e-4 * (want.max() - want.min())
        assert np.array_equal(got.argmax(-1), want.argmax(-1))


@pytest.mark.parametrize("name", IN_REPOSITORY)
def test_digits_and_mnist_lose_at_most_a_point_in_a_day_without_training(name: str, compile_for: Compile) -> None:
    opened = compile_for(name, "pcm-generic")
    folder = model_folder(name)
    found = evaluate_bundle(
        opened.folder,
        opened.manifest,
        folder / "eval.npz",
        ages_s=[86400.0],
        seeds=range(1000, 1010),
        float_model=folder / "model.onnx",
    )
    assert found["float"] - found["ages"][0]["mean"] <= 0.010


@pytest.mark.parametrize("target", ["pcm-generic", "pcm-hermes", "ideal"])
def test_two_compilations_give_the_same_bytes(target: str, compile_for: Compile) -> None:
    first = compile_for("digits_cnn", target, tag="-first").compiled.path.read_bytes()
    assert compile_for("digits_cnn", target, tag="-second").compiled.path.read_bytes() == first


@pytest.mark.parametrize("target", ["pcm-generic", "pcm-hermes", "ideal"])
@pytest.mark.parametrize("name", IN_REPOSITORY)
def test_the_program_passes_the_onnx_checker_in_full(name: str, target: str, compile_for: Compile) -> None:
    opened = compile_for(name, target)
    onnx.checker.check_model(str(opened.folder / "program.onnx"), full_check=True)
    for step in opened.manifest.steps:
        if step.segment:
            onnx.checker.check_model(str(opened.folder / step.segment), full_check=True)


def test_the_program_runs_where_no_hyle_is(compile_for: Compile) -> None:
    opened = compile_for("digits_cnn", "pcm-generic")
    data = model_folder("digits_cnn") / "eval.npz"
    site = next(path for path in sys.path if path.endswith("site-packages"))
    script = f"""
        import sys
        sys.path[:] = [p for p in sys.path if "site-packages" in p or "python3" in p]
        sys.meta_path[:] = [f for f in sys.meta_path if "hyle" not in repr(f) and "editable" not in repr(f)]
        sys.path[:] = [p for p in sys.path if p == {site!r} or "site-packages" not in p]
        import importlib.util, json, numpy as np, onnxruntime as ort
        missing = importlib.util.find_spec("hyle_substrates") is None and importlib.util.find_spec("hyle") is None
        session = ort.InferenceSession({str(opened.folder / "program.onnx")!r})
        samples = np.load({str(data)!r})
        answers = session.run(None, {{"input": samples["input"]}})[0]
        print(json.dumps([missing, float((answers.argmax(-1) == samples["labels"]).mean())]))
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({site!r})\n" + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd="/",
    )
    missing, accuracy = json.loads(done.stdout.splitlines()[-1])
    assert missing
    assert accuracy > 0.95


@pytest.mark.parametrize("target", ["pcm-generic", "pcm-hermes"])
@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn", "digits_tiny_transformer"])
def test_without_noise_the_program_is_the_numpy_physics(name: str, target: str, compile_for: Compile) -> None:
    """Both run the same integer arithmetic, so a layer differs by float32 rounding only.

    A sum that falls within rounding of the middle between two codes may land on either; one code of one column then
    moves what follows. With 1e-6 relative rounding about K·1e-6 of the codes flip, so most answers are the same to
    rounding, and all are within what a few codes can do.
    """
    opened = compile_for(name, target)
    profile = decode_profile((opened.folder / "profile.toml").read_bytes())
    samples = load_samples(model_folder(name) / "eval.npz", specs_of(opened.manifest)).head(100)
    output = opened.manifest.outputs[0].name
    fused = run_batches(exact_body(opened.folder, opened.manifest, profile, fused=True), samples, output)
    stepped = run_batches(exact_body(opened.folder, opened.manifest, profile, fused=False), samples, output)
    extent = fused.max() - fused.min()
    differs = np.abs(fused - stepped).max(axis=-1) / extent
    assert np.mean(differs > 1e-5) <= 0.2
    assert differs.max() <= 0.05


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_the_batch_stays_free(batch: int, compile_for: Compile) -> None:
    opened = compile_for("digits_tiny_transformer", "ideal")
    assert opened.manifest.inputs[0].shape[0] == -1
    profile = decode_profile((opened.folder / "profile.toml").read_bytes())
    samples = load_samples(model_folder("digits_tiny_transformer") / "eval.npz", specs_of(opened.manifest)).head(batch)
    assert (
        len(run_batches(exact_body(opened.folder, opened.manifest, profile), samples, opened.manifest.outputs[0].name))
        == batch
    )


def test_the_report_tells_what_stays_digital_and_why(compile_for: Compile) -> None:
    opened = compile_for("digits_tiny_transformer", "pcm-generic")
    report = json.loads((opened.folder / "report.json").read_text())
    reasons = {entry["reason"] for entry in report["digital"]}
    assert reasons == {"its right operand is computed at run time"}
    assert sum(layer["macs"] for layer in report["layers"]) == report["macs_on_physics"]
    page = (opened.folder / "report.html").read_text()
    assert not re.search(
        r"""(?:src|srcset|data)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import""", page
    )
    assert all(layer["name"] in page for layer in report["layers"])
