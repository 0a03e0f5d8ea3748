"""An agent that owns a black box: fitted, compiled, served, unplugged and back, by the commands alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hyle_agent.drivers import find_driver
from hyle_compiler.fitting.read_out import read_out
from test_agent_command import Served

sys.path.insert(0, str(Path(__file__).parents[1] / "drivers"))
from rigs import Process, scpi_instrument

SIZES = {"inputs": "8", "outputs": "24", "timeout_s": "1"}


def hyle(*arguments: str) -> Any:
    command = [sys.executable, "-m", "hyle", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for(address: str, status: int) -> None:
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        end = time.monotonic() + 60
        while check(health_pb2.HealthCheckRequest(service="echo")).status != status:
            assert time.monotonic() < end, f"health did not become {status}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instrument's twin, a read-out trained on what the instrument itself answers, and the bundle."""
    folder = tmp_path_factory.mktemp("box")
    rig = scpi_instrument()
    options = _options(rig)
    words = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    found = hyle("fit", "visa", *words, "-o", f"{folder}/echo.onnx", "--samples", "300")
    assert found["correlation"]["low"] > 0.9
    assert (found["driver"], found["simulated"]) == ("visa", False)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (240, 8)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] + x[:, 2] > 0).astype(np.int64)
    box: Any = find_driver("visa")(options)
    read_out(folder / "echo.onnx", x, labels, folder / "model.onnx", box=box)
    box.close()
    rig.unplug()
    np.savez(folder / "calib.npz", x=x, labels=labels)
    target = ["--target", f"{folder}/echo.onnx", "--calib", f"{folder}/calib.npz", "--name", "echo"]
    hyle("compile", f"{folder}/model.onnx", *target, "-o", f"{folder}/echo.hyle")
    return folder


def _options(rig: Process) -> dict[str, str]:
    return {"address": f"TCPIP::127.0.0.1::{rig.port}::SOCKET", **SIZES}


def test_an_agent_serves_on_the_attached_instrument_and_outlives_its_absence(built: Path, tmp_path: Path) -> None:
    rig = scpi_instrument()
    words = [word for key, value in _options(rig).items() for word in ("--option", f"{key}={value}")]
    asking = ["infer", "echo", "--data", f"{built}/calib.npz", "--batch", "60"]
    with Served(tmp_path, "--insecure", "--driver", "visa", *words) as served:
        hyle("deploy", f"{built}/echo.hyle", "--to", served.address)
        wait_for(served.address, health_pb2.HealthCheckResponse.SERVING)
        assert "hardware" in json.dumps(hyle("status", "--to", served.address))
        first = hyle(*asking, "--to", served.address)["accuracy"]
        # Of two classes that a third of the read-out's freedom decides, guessing gives a half.
        assert first > 0.75
        rig.unplug()
        command = [sys.executable, "-m", "hyle", *asking, "--to", served.address]
        failed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert failed.returncode == 1
        assert "does not answer" in failed.stderr
        wait_for(served.address, health_pb2.HealthCheckResponse.NOT_SERVING)
        rig.replug()
        wait_for(served.address, health_pb2.HealthCheckResponse.SERVING)
        # The instrument has no noise: the same samples, the same answers.
        assert hyle(*asking, "--to", served.address)["accuracy"] == first
    rig.unplug()


def test_an_agent_without_the_device_serves_its_twin(built: Path, tmp_path: Path) -> None:
    asking = ["infer", "echo", "--data", f"{built}/calib.npz", "--batch", "60"]
    with Served(tmp_path, "--insecure") as served:
        hyle("deploy", f"{built}/echo.hyle", "--to", served.address)
        assert hyle(*asking, "--to", served.address)["accuracy"] > 0.75
        assert "twin" in json.dumps(hyle("status", "--to", served.address))
