"""The interface: what is listed, what is refused, what is chosen, and that what was learned reaches the bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hyle_compiler.adapt.method import AdaptError
from hyle_compiler.adapt.registry import choose, load_method, method_names, refusal, suitable
from hyle_compiler.adapting import Adaptation, adapt
from hyle_compiler.samples import Samples
from hyle_substrates.profile import load_profile

from hyle.cli import main

DATA = Path(__file__).resolve().parents[1] / "data"
PCM = load_profile("pcm-generic")


@pytest.mark.parametrize("name", method_names())
def test_every_method_says_what_it_is_what_it_needs_and_whence_it_comes(name: str) -> None:
    method = load_method(name)
    assert method.name == name
    assert method.summary
    assert method.source
    assert method.needs.passes


def test_a_method_that_does_not_exist_is_refused_with_the_names_of_those_that_do() -> None:
    with pytest.raises(AdaptError) as caught:
        load_method("magic")
    assert "in-silico" in caught.value.remedy


def test_without_torch_the_gradient_methods_are_refused_and_no_training_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hyle_compiler.adapt.registry.find_spec", lambda name: None)
    reason = refusal(load_method("in-silico"), PCM, labels=True)
    assert reason is not None
    assert "torch" in reason
    assert "none" in suitable(PCM, labels=True)
    assert choose(PCM, labels=True, samples=5000, device=False)[0] not in ("in-silico", "pat")


def test_auto_takes_statistics_for_few_samples_and_the_device_where_it_is_attached() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert choose(PCM, labels=True, samples=300, device=False)[0] == "none"
    assert choose(PCM, labels=True, samples=5000, device=False)[0] == "in-silico"
    assert choose(PCM, labels=True, samples=5000, device=True)[0] == "pat"
    assert choose(load_profile("ideal"), labels=True, samples=5000, device=False)[0] == "none"


def test_the_verb_lists_the_methods_and_says_which_a_target_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--target", "pcm-generic", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["methods"]}
    assert set(found) == set(method_names())
    assert found["none"]["refused"] is None
    assert main(["methods"]) == 0


@pytest.mark.parametrize("labels", [np.full(300, 10), np.full(300, -1), np.full(300, 0.5)])
def test_labels_that_the_model_cannot_give_are_refused(given, labels, tmp_path) -> None:  # type: ignore[no-untyped-def]
    it = given()
    wrong = Samples(it.samples.arrays, labels[: len(it.samples)])
    with pytest.raises(AdaptError, match="Labels"):
        adapt(
            tmp_path, it.model, it.parts.physical, it.samples, PCM, Adaptation("none", wrong),
            copies=1, compensation="affine", seed=0,
        )  # fmt: skip


@pytest.mark.parametrize(
    "labels",
    [np.eye(10, dtype=np.int64)[:, :5], np.full(10, np.nan), np.array(list("abcdefghij")), np.zeros(9, np.int64)],
    ids=["five classes", "nan", "text", "too few"],
)
def test_labels_that_are_no_classes_are_refused(given, labels, tmp_path) -> None:  # type: ignore[no-untyped-def]
    it = given()
    wrong = Samples(it.samples.head(10).arrays, labels)
    with pytest.raises(AdaptError, match="Labels"):
        adapt(
            tmp_path, it.model, it.parts.physical, it.samples, PCM, Adaptation("none", wrong),
            copies=1, compensation="affine", seed=0,
        )  # fmt: skip


def test_no_data_are_refused(given, tmp_path) -> None:  # type: ignore[no-untyped-def]
    it = given()
    with pytest.raises(AdaptError, match="nothing to learn from"):
        adapt(
            tmp_path, it.model, it.parts.physical, it.samples, PCM, Adaptation("none", it.samples.head(0)),
            copies=1, compensation="affine", seed=0,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["in-silico", "spsa"])
def test_one_sample_is_too_few_to_train_on(given, name) -> None:  # type: ignore[no-untyped-def]
    if load_method(name).needs.torch:
        pytest.importorskip("torch")
    it = given()
    with pytest.raises(AdaptError, match="One sample"):
        load_method(name).run(it.task(samples=it.samples.head(1)))


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_a_bundle_without_training_says_how_it_was_corrected(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.hyle"
    code = main([
        "compile", str(DATA / name / "model.onnx"), "--target", "pcm-generic", "--copies", "1",
        "--calib", str(DATA / name / "calib.npz"), "-o", str(out), "--instances", "2", "--adapt", "auto", "--json",
    ])  # fmt: skip
    told = json.loads(capsys.readouterr().out)["adaptation"]
    assert code == 0
    assert told["method"] == "none"
    assert "too few" in told["why"]
    assert told["outcome"] == "finished"


def test_methods_without_a_gradient_load_no_torch(given) -> None:  # type: ignore[no-untyped-def]
    already = "torch" in sys.modules
    it = given()
    adapted = load_method("none").run(it.task())
    assert set(adapted.matrices) == {layer.name for layer in it.parts.physical}
    assert ("torch" in sys.modules) == already
