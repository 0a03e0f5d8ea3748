"""The demo goes the whole way with real parts, twice, and leaves nothing running."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hyle_deploy.broker import available_brokers

from hyle.cli import main


@pytest.mark.skipif(not available_brokers(), reason="no MQTT broker: neither mosquitto nor iotcore is installed")
def test_the_demo_goes_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["demo", "--out", str(tmp_path / "out"), "--instances", "2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
    assert found["evaluation"]["float"] == pytest.approx(0.979)
    assert found["query"]["samples"] == 1000
    assert found["query"]["accuracy"] > 0.96
    assert found["rolled_back_to"] == "1"
    assert found["telemetry_messages"] >= 2
    assert found["fleet"]
    assert Path(found["report"]).is_file()
    assert found["delta_bytes"] < found["bundle_bytes"]
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_a_folder_without_a_model_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "model.onnx" in capsys.readouterr().err
