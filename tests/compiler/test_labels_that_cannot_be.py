"""Labels that no answer could meet are refused before they score zero, and those that tell nothing are warned of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hyle_bundle import open_bundle
from hyle_bundle.scoring import LabelsError, score, wanted_of
from hyle_compiler.evaluate import evaluate_bundle
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import numpy_helper, parser

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((20, 5)).astype(np.float32)
CLASSES = SCORES.argmax(axis=1)
WORDS = np.array(["cat", "dog"] * 10, dtype=object)
TEXT = '<ir_version: 10, opset_import: ["" : 21]> g (float[N,8] x) => (float[N,5] y) { y = MatMul(x, w) }'


@pytest.mark.parametrize(
    ("answers", "labels", "says"),
    [
        (SCORES, CLASSES + 1, "run from 1 to 5; the model tells 5 classes apart"),
        (SCORES, CLASSES - 1, "run from -1 to 3"),
        (SCORES, CLASSES * 0.5, "tells 5 classes"),
        (SCORES, np.full(20, np.nan), "NaN"),
        (SCORES, np.full(20, "dog"), "<U3; the model answers with numbers"),
        (SCORES, np.eye(6)[CLASSES], "do not fit answers"),
        (RNG.standard_normal((20, 6, 5)).astype(np.float32), np.eye(6, dtype=int)[CLASSES] * 7, "run from 0 to 7"),
        (SCORES.argmax(axis=1), np.full(20, "dog"), "the model answers with numbers"),
        (WORDS, np.zeros(20, np.int64), "int64; the model answers with words"),
        (WORDS, np.full((20, 2), "dog"), "do not fit answers"),
    ],
)
def test_labels_that_no_answer_can_meet_are_refused(answers: Array, labels: Array, says: str) -> None:
    with pytest.raises(LabelsError) as caught:
        wanted_of(answers, labels)
    assert says in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, bool])
def test_one_hot_labels_stand_for_their_classes(kind: type) -> None:
    wanted = wanted_of(SCORES, np.eye(5, dtype=kind)[CLASSES])
    assert np.array_equal(wanted, CLASSES)
    wrong = wanted_of(SCORES, np.eye(5, dtype=kind)[(CLASSES + 1) % 5])
    assert score(SCORES, wrong) == 0.0


def test_labels_that_fit_stay_as_they_are() -> None:
    several = np.array([[1, 1, 0, 0, 0]] * 20)
    for answers, labels in ((SCORES, CLASSES), (SCORES, CLASSES * 1.0), (WORDS, WORDS.astype(str)), (SCORES, several)):
        assert wanted_of(answers, labels) is labels


def saved(folder: Path, labels: Array) -> Array:
    model = parser.parse_model(TEXT)
    weights = RNG.standard_normal((8, 5)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(model, str(folder / "m.onnx"))
    x = RNG.standard_normal((20, 8)).astype(np.float32)
    np.savez(folder / "c.npz", x=x, labels=labels)
    return np.asarray((x @ weights).argmax(axis=1))


def warnings(folder: Path, **options: Any) -> list[str]:
    profile, text = find_profile("pcm-generic")
    done = compile_model(
        folder / "m.onnx", folder / "c.npz", profile, text, folder / "o.hyle", Options(instances=2, **options)
    )
    return [warning["message"] for warning in done.report["warnings"]]


@pytest.mark.parametrize("stream", [None, True])
def test_the_compiler_and_the_evaluation_refuse_them(stream: bool | None, tmp_path: Path) -> None:
    saved(tmp_path, np.arange(20) % 5)
    warnings(tmp_path, stream=stream)
    with np.load(tmp_path / "c.npz") as arrays:
        np.savez(tmp_path / "c.npz", x=arrays["x"], labels=arrays["labels"] + 1)
    with pytest.raises(LabelsError, match="5 classes"):
        warnings(tmp_path, stream=stream)
    with open_bundle(tmp_path / "o.hyle") as bundle:
        bundle.extract(tmp_path / "files")
        with pytest.raises(LabelsError, match="5 classes"):
            evaluate_bundle(tmp_path / "files", bundle.manifest, tmp_path / "c.npz", ages_s=[25.0], seeds=[0])


def test_labels_all_alike_and_labels_that_are_never_met_are_warned_of(tmp_path: Path) -> None:
    saved(tmp_path, np.full(20, 3))
    assert any("All 20 labels are 3" in text for text in warnings(tmp_path))
    right = saved(tmp_path, np.zeros(20, np.int64))
    with np.load(tmp_path / "c.npz") as arrays:
        np.savez(tmp_path / "c.npz", x=arrays["x"], labels=(right + 1) % 5)
    assert any("answers none of 20 labels" in text for text in warnings(tmp_path))
