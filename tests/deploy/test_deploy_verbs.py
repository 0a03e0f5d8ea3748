"""The four verbs as a person and as a program use them, against a real server."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hyle_bundle.scoring import LabelsError
from hyle_deploy.client import connect
from hyle_deploy.query import ask
from hyle_deploy.records import TensorSpec
from hyle_deploy.samples import Samples, SamplesError, read_samples
from hyle_errors import CallerError

from hyle.cli import main

SPECS = (TensorSpec("x", "FP32", (-1, 4)),)


@pytest.fixture
def data(tmp_path, weights):
    x = np.random.default_rng(1).normal(size=(25, 4)).astype(np.float32)
    labels = (x @ weights).argmax(1)
    labels[:5] = (labels[:5] + 1) % 3
    path = tmp_path / "e.npz"
    np.savez(path, x=x, labels=labels)
    return path


def document(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("batch", [1, 4, 25, 100])
def test_infer_says_accuracy_latency_and_rate(address, data, capsys, batch, agent):
    assert main(["infer", "linear", "--to", address, "--data", str(data), "--batch", str(batch), "--json"]) == 0
    result = document(capsys)
    assert result["accuracy"] == 20 / 25
    assert result["requests"] == agent.calls.count("ModelInfer") == -(-25 // batch)
    assert (
        0 < result["latency"]["p50_s"] <= result["latency"]["p99_s"] <= result["latency"]["max_s"] <= result["seconds"]
    )
    assert result["samples_per_s"] == pytest.approx(25 / result["seconds"])


def test_infer_writes_the_answers(address, data, tmp_path, capsys, weights):
    out = tmp_path / "answers.npz"
    assert main(["infer", "linear", "--to", address, "--data", str(data), "--out", str(out), "--batch", "3"]) == 0
    with np.load(out) as answers, np.load(data) as asked:
        np.testing.assert_allclose(answers["y"], asked["x"] @ weights, rtol=1e-6)
    captured = capsys.readouterr()
    assert "accuracy 80.00 %" in captured.err
    assert "p99 ms" in captured.out


def test_infer_refuses_an_output_that_cannot_be_written(address, data, tmp_path, capsys):
    out = tmp_path / "no" / "answers.npz"
    assert main(["infer", "linear", "--to", address, "--data", str(data), "--out", str(out), "--json"]) == 2
    assert str(out) in document(capsys)["error"]


def test_deploy_status_rollback_as_json(address, bundle, capsys):
    for version in ("1", "2"):
        assert main(["deploy", str(bundle(version)), "--to", address, "--json"]) == 0
        deployed = document(capsys)
        assert (deployed["model"], deployed["version"], deployed["activated"]) == ("linear", version, True)
    assert main(["status", "--to", address, "--json"]) == 0
    status = document(capsys)
    assert [slot["version"] for slot in status["models"][0]["slots"]] == ["1", "2"]
    assert main(["rollback", "linear", "--to", address, "--json"]) == 0
    assert document(capsys) == {"agent": address, "model": "linear", "slot": "a", "version": "1"}


def test_deploy_status_rollback_for_people(address, bundle, capsys):
    for version in ("1", "2"):
        assert main(["deploy", str(bundle(version)), "--to", address]) == 0
    assert main(["status", "--to", address]) == 0
    assert main(["rollback", "linear", "--to", address]) == 0
    captured = capsys.readouterr()
    assert "serves" in captured.out
    for words in (
        "programming the device",
        "linear 2 serves",
        "residual 0.0100",
        "ideal (simulated",
        "rolled back from version 2",
        "linear 1 serves again",
    ):
        assert words in captured.err


def test_install_only_says_that_it_waits(address, bundle, capsys, agent):
    assert main(["deploy", str(bundle("1")), "--to", address, "--install-only"]) == 0
    assert "waits in its slot" in capsys.readouterr().err
    assert agent.active == []


def test_an_agent_that_is_not_there_exits_1_with_a_remedy(capsys):
    assert main(["status", "--to", "127.0.0.1:1", "--timeout", "5", "--json"]) == 1
    assert "hyle agent run" in document(capsys)["remedy"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--to", "nowhere"],
        ["status", "--to", "here there:1"],
        ["status", "--to", "127.0.0.1\n:1"],
        ["infer", "linear", "--to", "127.0.0.1:1", "--data", "e.npz", "--batch", "0"],
        ["deploy", "no-such.hyle", "--to", "127.0.0.1:1"],
    ],
)
def test_the_callers_mistakes_exit_2(arguments):
    assert main(arguments) == 2


@pytest.mark.parametrize("time", ["0", "-5", "nan", "inf", "1e300", "-inf", "soon", ""])
@pytest.mark.parametrize(
    "command",
    [["status", "--to", "127.0.0.1:1", "--timeout"], ["check-driver", "twin", "--timeout"]],
)
def test_what_is_no_time_to_wait_is_named(command, time, capsys):
    assert main([*command[:-1], f"{command[-1]}={time}"]) == 2
    assert f"--timeout: {time!r} is no time in seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["rollback", "\udcff"],
        ["status", "--to", "unix:\udcff"],
        ["watch", "--broker", "127.0.0.1:1", "--username", "\udcff"],
        ["agent", "run", "--node", "\udcff"],
        ["agent", "run", "--option", "\udcff=1"],
    ],
)
def test_a_word_that_is_no_text_is_named(arguments, capsys):
    where = ["--to", "127.0.0.1:1"] if arguments[0] == "rollback" else []
    assert main([*arguments, *where]) == 2
    assert "udcff" in capsys.readouterr().err


@pytest.mark.parametrize("time", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_client_without_a_time_to_wait_is_refused(time):
    for name in ("timeout_s", "install_timeout_s"):
        with pytest.raises(CallerError, match=f"{name} is .* no time to wait"):
            connect("127.0.0.1:1", **{name: time})


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros((2, 4), "f4")}, "inputs are 'x'"),
        ({"x": np.zeros((2, 4), "f4"), "z": np.zeros(2)}, "holds 'x', 'z'"),
        ({}, "holds nothing"),
        ({"x": np.zeros((2, 4), "f8")}, "is FP64, the model takes FP32"),
        ({"x": np.zeros((2, 5), "f4")}, r"shape \[2, 5\]"),
        ({"x": np.zeros((2, 4, 1), "f4")}, r"shape \[2, 4, 1\]"),
        ({"x": np.float32(1)}, r"shape \[\]"),
        ({"x": np.zeros((0, 4), "f4")}, "0} samples"),
        ({"x": np.zeros((2, 4), "f4"), "labels": np.zeros(3, "i8")}, "'labels': 3"),
        ({"x": np.zeros((2, 4), "f4"), "labels": np.zeros(2, "f4")}, "one class a sample"),
        ({"x": np.zeros((2, 4), "f4"), "labels": np.zeros((2, 3), "i8")}, "one class a sample"),
        ({"x": np.array([None, 1], dtype=object)}, "cannot be read as .npz"),
    ],
)
def test_samples_that_do_not_fit_are_named(tmp_path, arrays, words):
    path = tmp_path / "e.npz"
    np.savez(path, **arrays)
    with pytest.raises(SamplesError, match=words) as caught:
        read_samples(path, SPECS)
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short", None])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "e.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SamplesError, match=r"e\.npz cannot be read"):
        read_samples(path, SPECS)


def test_one_array_without_a_name_is_no_npz(tmp_path):
    path = tmp_path / "e.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(SamplesError, match="without a name"):
        read_samples(path, SPECS)


def test_labels_need_class_scores(address, client, tmp_path):
    class Scalar:
        def infer(self, model, inputs):
            return {"y": inputs["x"][:, 0]}

    samples = Samples({"x": np.zeros((2, 4), "f4")}, np.zeros(2, "i8"))
    with pytest.raises(Exception, match="one row of scores"):
        ask(Scalar(), "linear", samples)
    assert ask(Scalar(), "linear", Samples(samples.inputs, None)).accuracy is None


class Accumulator:
    """A model with a state whose first axis counts layers, and a rate without axes."""

    SPECS = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("state", "FP32", (2, -1, 3)), TensorSpec("rate", "INT64", ()))

    def infer(self, model, inputs):
        assert inputs["rate"].shape == ()
        assert inputs["state"].shape == (2, 1, 3)
        after = inputs["state"] + inputs["x"] * int(inputs["rate"])
        return {"y": after.sum(axis=(0, 2))[:, None], "after": after}


def test_samples_that_are_whole_inputs_are_asked_one_by_one(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(5, 1, 3)).astype(np.float32),
        "state": rng.normal(size=(5, 2, 1, 3)).astype(np.float32),
        "rate": np.arange(5),
    }
    np.savez(tmp_path / "s.npz", **arrays, labels=np.array([0, 1, 1, 0, 1]))
    samples = read_samples(tmp_path / "s.npz", Accumulator.SPECS)
    answers = ask(Accumulator(), "m", samples.head(4))
    want = arrays["state"] + arrays["x"][:, None] * arrays["rate"][:, None, None, None]
    np.testing.assert_allclose(answers.outputs["after"], want[:4], rtol=1e-6)
    assert answers.requests == 4
    right = (want[:4].sum(axis=(1, 2, 3)) > 0.0) == np.array([False, True, True, False])
    assert answers.accuracy == right.mean()
    with pytest.raises(SamplesError, match="whole input"):
        ask(Accumulator(), "m", samples, batch=2)
    np.savez(tmp_path / "s.npz", **{**arrays, "state": arrays["state"][..., :2]})
    with pytest.raises(SamplesError, match=r"\[5, 2, 1, 2\]"):
        read_samples(tmp_path / "s.npz", Accumulator.SPECS)


class Single:
    def __init__(self, scores):
        self.scores = scores

    def infer(self, model, inputs):
        return {"y": self.scores}


@pytest.mark.parametrize(("scores", "accuracy"), [([0.2, 0.9, 0.6, 0.4], 0.75), ([-3.0, 0.2, 0.1, 2.0], 0.5)])
def test_a_single_score_is_a_class_of_two(scores, accuracy):
    samples = Samples({"x": np.zeros((4, 1), np.float32)}, np.array([0, 1, 0, 0]))
    made = Single(np.array(scores, np.float32)[:, None])
    assert ask(made, "m", samples, batch=4).accuracy == accuracy


@pytest.mark.parametrize("labels", [np.array([[2], [0], [1], [1]]), np.eye(3)[[2, 0, 1, 1]]])
def test_labels_in_a_column_and_one_hot_rows_are_classes(labels):
    made = Single(np.array([[0, 1, 2], [2, 0, 1], [0, 2, 1], [2, 1, 0]], np.float32))
    assert ask(made, "m", Samples({"x": np.zeros((4, 1), np.float32)}, labels), batch=4).accuracy == 0.75


def test_numbers_are_right_within_a_tenth_of_their_standard_deviation():
    labels = np.array([0.0, 2.0, 4.0, 6.0])  # standard deviation 2.24
    made = Single(np.array([[0.2], [2.0], [3.8], [6.3]], np.float32))
    assert ask(made, "m", Samples({"x": np.zeros((4, 1), np.float32)}, labels), batch=4).accuracy == 0.75


def test_labels_of_another_width_are_refused():
    made = Single(np.zeros((4, 3), np.float32))
    with pytest.raises(LabelsError, match=r"\(4, 2\)"):
        ask(made, "m", Samples({"x": np.zeros((4, 1), np.float32)}, np.zeros((4, 2), np.int64)), batch=4)
