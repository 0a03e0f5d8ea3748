"""The command line and the Python API, as a person uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hyle_compiler.progress import Advance

import hyle
from hyle.cli import main
from hyle.console import Console

DIGITS = Path(__file__).resolve().parents[1] / "data" / "digits_mlp"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "digits.hyle"
    said: list[str] = []
    done = hyle.compile(
        DIGITS / "model.onnx",
        target="pcm-generic",
        calib=DIGITS / "calib.npz",
        output=out,
        progress=said.append,
        instances=2,
        name="digits",
        version="1.2",
    )
    assert said[0] == "reading the model"
    assert done.digest
    return out


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    said = capsys.readouterr()
    assert "error" not in said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def test_targets_are_listed_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    targets = {target["name"]: target for target in document(capsys, "targets")["targets"]}
    assert {"ideal", "pcm-generic", "pcm-hermes"} <= set(targets)
    assert all(target["sources"] and target["validity"] for target in targets.values())
    assert main(["targets"]) == 0
    assert "pcm-hermes" in capsys.readouterr().out
    assert main(["targets", "pcm-hermes"]) == 0
    sheet = capsys.readouterr().out
    assert "array.rows = 256" in sheet
    assert "Le Gallo" in sheet


def test_inspect_shows_what_is_inside(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "inspect", str(bundle))
    assert (found["name"], found["version"], found["target"], found["signer"]) == ("digits", "1.2", "pcm-generic", None)
    assert len(found["report"]["layers"]) == 3
    assert main(["inspect", str(bundle)]) == 0
    assert "not signed" in capsys.readouterr().out


def test_the_report_opens_in_a_browser(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["inspect", str(bundle), "--report"]) == 0
    page = Path(opened[0].removeprefix("file://"))
    assert "digits on pcm-generic" in page.read_text()


def test_evaluate_prints_the_ages_and_gives_them_as_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [
        "--data",
        str(DIGITS / "eval.npz"),
        "--at",
        "25s,1y",
        "--instances",
        "2",
        "--model",
        str(DIGITS / "model.onnx"),
    ]
    found = document(capsys, "evaluate", str(bundle), *data)
    assert [age["age_s"] for age in found["ages"]] == [25.0, 31536000.0]
    assert found["float"] == pytest.approx(0.98)
    assert main(["evaluate", str(bundle), *data]) == 0
    said = capsys.readouterr().out
    assert "after 25s" in said
    assert "float model" in said


def test_without_labels_the_score_is_agreement(bundle: Path, tmp_path: Path) -> None:
    import numpy as np

    with np.load(DIGITS / "eval.npz") as file:
        np.savez(tmp_path / "plain.npz", input=file["input"][:50])
    with hyle.open(bundle) as opened:
        found = opened.evaluate(tmp_path / "plain.npz", at="25s", instances=1)
    assert found["metric"] == "agreement"
    assert found["float"] is None
    assert found["exact"] == 1.0


@pytest.mark.parametrize("text", ["", "25", "s", "1w", "1d,", "-1s"])
def test_what_is_no_duration_is_refused(text: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(bundle), "--data", str(DIGITS / "eval.npz"), f"--at={text}"]) == 2
    assert "duration" in capsys.readouterr().err


def test_an_open_bundle_says_what_it_is(bundle: Path) -> None:
    with hyle.open(bundle) as opened:
        assert opened.manifest.name == "digits"
        assert len(opened.digest) == 64
        assert opened.signer is None
        assert json.loads(opened.read("report.json"))["model"] == "digits"


def test_the_facade_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        _ = hyle.frobnicate  # type: ignore[attr-defined]


def test_an_unexpected_error_is_ours_and_shows_no_trace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr("hyle.commands.targets.run", broken)
    assert main(["targets"]) == 1
    said = capsys.readouterr().err
    assert "secret" not in said
    assert "HYLE_DEBUG" in said
    monkeypatch.setenv("HYLE_DEBUG", "1")
    assert main(["targets", "--json"]) == 1
    assert "secret" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["run", "configure"])
def test_ctrl_c_ends_quietly(where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"hyle.commands.targets.{where}", interrupted)
    assert main(["targets", "--json"]) == 130
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert json.loads(said.out)["error"] == "stopped"


@pytest.mark.parametrize(
    "arguments",
    [["targets", "a", "b"], ["agent"], ["agent", "run", "--seed", "x"], ["frobnicate"], ["inspect", "no-such.hyle"]],
)
def test_wrong_arguments_are_one_json_document_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json"]) == 2
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert set(found) == {"error", "remedy"}
    assert said.err == f"error: {found['error']}\n{found['remedy']}\n"


@pytest.mark.parametrize("arguments", [["targets"], ["targets", "--json"], ["methods"]])
def test_a_reader_that_goes_away_ends_it_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "hyle", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_does_not_fit_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "hyle", "targets"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: stdout cannot be written: No space left on device.\n")


def test_a_verb_whose_package_is_missing_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr("importlib.import_module", missing)
    assert main(["targets"]) == 2
    assert "pip install 'hyle[compiler]'" in capsys.readouterr().err


def test_progress_overwrites_itself_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console()
    for text in ("reading: 1", "reading: 2", "writing"):
        console.progress(text)
    assert capsys.readouterr().err.splitlines() == ["reading", "writing"]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    console.progress("again")
    console.done()
    assert "\r" in capsys.readouterr().err


def test_under_json_stdout_is_for_the_document_and_stderr_for_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Console(quiet=True)
    quiet.progress("x")
    quiet.say("y")
    quiet.table("x", ["a"], [["b"]])
    quiet.done()
    assert capsys.readouterr() == ("", "x\ny\n")


def advance(done: int) -> Advance:
    return Advance("adapting", done=done, total=4, loss=0.5, best=0.25, passes=100 * done, accuracy=0.96)


def test_training_is_told_line_by_line_and_drawn_as_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console()
    for done in range(1, 4):
        console.progress(advance(done))
    line = "adapting: step 1 of 4, loss 0.5000, best held-out 0.2500, accuracy 96.00 %, 100 passes"
    assert capsys.readouterr().err.splitlines() == [line]  # the next one is due in seconds
    monkeypatch.setattr("hyle.console.EVERY_S", 0.0)
    console.progress(advance(4).on_device(7))
    assert capsys.readouterr().err.endswith("400 passes, 7 vectors on the device\n")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    console.progress(advance(2))
    console.done()
    drawn = capsys.readouterr().err
    assert "loss 0.5000" in drawn
    assert "200 passes" in drawn


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["comple"], "compile"),
        (["targets", "pcm-hermse"], "pcm-hermes"),
        (["methods", "--target", "ram-neurram"], "rram-neurram"),
    ],
)
def test_a_slip_of_the_pen_is_met_with_what_was_meant(
    arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert f"Did you mean {near!r}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--instances", "0"),
        ("--seed", "-1"),
        ("--counter", "-1"),
        ("--devices", "0"),
        ("--name", "a b/c"),
        ("--version", "v 1"),
    ],
)
def test_an_impossible_option_is_refused_before_any_work(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(DIGITS / "model.onnx"), "--calib", str(DIGITS / "calib.npz"), "-o", str(tmp_path / "m.hyle")]
    assert main(["compile", *files, "--target", "pcm-generic", f"{option}={value}"]) == 2
    said = capsys.readouterr().err
    assert "reading the model" not in said
    assert value in said
    assert not list(tmp_path.iterdir())


def test_no_instances_and_no_float_model_are_said(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["evaluate", str(bundle), "--data", str(DIGITS / "eval.npz")]
    assert main([*data, "--instances", "0"]) == 2
    assert main([*data, "--model", "nowhere.onnx"]) == 2
    assert "nowhere.onnx" in capsys.readouterr().err


def test_a_package_that_is_missing_half_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("hyle_compiler.report")]:
        monkeypatch.delitem(sys.modules, name)
    out = tmp_path / "digits.hyle"
    words = f"compile {DIGITS}/model.onnx --target ideal --calib {DIGITS}/calib.npz -o {out} --instances 1"
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert "needs the package matplotlib" in said
    assert "pip install" in said
    assert list(tmp_path.iterdir()) == []
