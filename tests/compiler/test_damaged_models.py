"""Damaged ONNX files end in a bundle or in an error of ours, soon, and write nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from compiler_models import DIGITS
from test_older_models import written

WORKER = Path(__file__).with_name("damaged_worker.py")
NEW = DIGITS / "digits_mlp" / "model.onnx", DIGITS / "digits_mlp" / "calib.npz"
LIMIT_S = 10.0
LOADING_S = 60.0


def run_worker(folder: Path, start: int, stop: int, model: Path, calib: Path) -> list[dict[str, object]]:
    (folder / "out").mkdir(parents=True)
    command = [sys.executable, str(WORKER), str(model), str(calib), str(folder)]
    done = subprocess.run(
        [*command, str(start), str(stop)],
        capture_output=True,
        text=True,
        timeout=(stop - start) * LIMIT_S + LOADING_S,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        cwd=folder / "out",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def hold(found: list[dict[str, object]], folder: Path, count: int) -> None:
    assert len(found) == count
    for number, case in enumerate(found):
        assert case["code"] in (0, 2), case
        assert not case["traceback"], case
        assert case["written"] == (case["code"] == 0), case
        if case["code"] == 2:
            assert json.loads(str(case["text"])[str(case["text"]).rindex("{\n") :])["remedy"], case
        # The first one also loads the compiler.
        assert number == 0 or float(str(case["seconds"])) < LIMIT_S, case
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "out"}
    assert {path.name for path in (folder / "out").iterdir()} <= {"m.hyle"}


def test_damaged_files_end_in_a_bundle_or_an_error_with_a_remedy(tmp_path: Path) -> None:
    found = run_worker(tmp_path / "work", 0, 180, *NEW)
    hold(found, tmp_path / "work", 180)
    assert Counter(case["damage"] for case in found).most_common()[-1][1] >= 20


@pytest.mark.long
@pytest.mark.parametrize("start", range(180, 10000, 1964))
def test_ten_thousand_damaged_files(tmp_path: Path, start: int) -> None:
    hold(run_worker(tmp_path / "work", start, start + 1964, *NEW), tmp_path / "work", 1964)


@pytest.mark.parametrize(("opset", "count"), [(11, 100), pytest.param(12, 2000, marks=pytest.mark.long)])
def test_damaged_files_of_an_older_opset_are_no_danger_to_the_converter(opset: int, count: int, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    model = written(tmp_path / "m", opset)
    hold(run_worker(tmp_path / "work", 0, count, model, model.with_name("c.npz")), tmp_path / "work", count)
