"""An agent whose device is a program in another language: examples/substrate_node."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hyle_substrates import conformance, conformance_driver
from hyle_substrates.conformance import Subject
from hyle_substrates.remote import connect
from rigs import BOARD, Process
from served import Served, hyle

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/substrate_node"
DIGITS = ROOT / "tests/data/digits_mlp"


def why_no_node() -> str:
    if shutil.which("node") is None:
        return "Node.js is not installed"
    return "" if (EXAMPLE / "node_modules/@grpc/grpc-js").is_dir() else "run `npm install` in examples/substrate_node"


pytestmark = pytest.mark.skipif(bool(why_no_node()), reason=why_no_node())


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Process]:
    sheet = tmp_path / "board.json"
    sheet.write_text(json.dumps(tomllib.loads(BOARD.read_text())))
    proto = ROOT / "protos/hyle_protos/substrate/substrate.proto"
    rig = Process(["node", str(EXAMPLE / "device.js"), "0", str(sheet), str(proto)], 2)
    yield rig
    rig.unplug()


def test_the_device_in_javascript_keeps_the_contract(device: Process) -> None:
    options = {"address": f"127.0.0.1:{device.port}", "timeout_s": "1"}
    findings = conformance.run(conformance_driver.CHECKS, Subject(lambda: connect(options), device))
    wrong = [finding for finding in findings if finding.outcome == "failed"]
    assert not wrong, wrong


def test_an_agent_serves_digits_on_the_device_in_javascript_and_outlives_its_absence(
    device: Process, tmp_path: Path
) -> None:
    bundle = tmp_path / "digits.hyle"
    compiling = ["compile", f"{DIGITS}/model.onnx", "--target", str(BOARD), "--calib", f"{DIGITS}/calib.npz"]
    hyle(*compiling, "-o", str(bundle), "--name", "digits", "--instances", "1")
    float_accuracy = _float_accuracy()
    option = ["--option", f"address=127.0.0.1:{device.port}", "--option", "timeout_s=1"]
    with Served(tmp_path, "--insecure", "--driver", "remote", *option) as served:
        hyle("deploy", str(bundle), "--to", served.address)
        status = hyle("status", "--to", served.address)
        assert "node-example-1" in json.dumps(status)
        asking = ["infer", "digits", "--to", served.address, "--data", f"{DIGITS}/eval.npz", "--batch", "50"]
        # 450 samples behind 8-bit converters: three standard errors of a share of 1 % that may change sides.
        allowed = 3.0 * float(np.sqrt(0.01 / 450)) + 0.01
        assert hyle(*asking)["accuracy"] >= float_accuracy - allowed
        wait_for(served.address, health_pb2.HealthCheckResponse.SERVING)
        device.unplug()
        failed = subprocess.run(
            [sys.executable, "-m", "hyle", *asking], capture_output=True, text=True, timeout=60, check=False
        )
        assert failed.returncode == 1
        assert "does not answer" in failed.stderr
        wait_for(served.address, health_pb2.HealthCheckResponse.NOT_SERVING)
        device.replug()
        wait_for(served.address, health_pb2.HealthCheckResponse.SERVING)
        assert hyle(*asking)["accuracy"] >= float_accuracy - allowed


def wait_for(address: str, status: int) -> None:
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        end = time.monotonic() + 30
        while check(health_pb2.HealthCheckRequest(service="digits")).status != status:
            assert time.monotonic() < end, f"health did not become {status}"
            time.sleep(0.05)


def _float_accuracy() -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(str(DIGITS / "model.onnx"), providers=["CPUExecutionProvider"])
    with np.load(DIGITS / "eval.npz") as data:
        name = session.get_inputs()[0].name
        answers = session.run(None, {name: data[name].astype(np.float32)})[0]
        return float(np.mean(answers.argmax(1) == data["labels"]))
