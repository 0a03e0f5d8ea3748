"""A stop that comes before the agent is ready ends it as any other stop does, however slow its device is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from agent_fakes import Operator, config_for, debris, make_bundle, running

HERE = Path(__file__).parent
FAR_BELOW_S = 20.0  # the device would take 60 s


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["open", "program", "hangs"])
def test_a_stop_before_the_agent_is_ready_is_prompt_and_no_death_of_the_trial(
    tmp_path: Path, store: Path, how: str, stop: signal.Signals
) -> None:
    with running(config_for(store, watch_s=30.0)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
    before = json.loads((store / "models/small/state.json").read_text())
    command = [sys.executable, str(HERE / "slow_process.py"), how, str(store), str(tmp_path / "ready")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        began = time.monotonic()
        process.send_signal(stop)
        out, err = process.communicate(timeout=90)
    assert time.monotonic() - began < FAR_BELOW_S
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert ("closed" in out) == (how == "program")
    assert not (tmp_path / "ready").exists()
    assert json.loads((store / "models/small/state.json").read_text()) == before
    assert before["trial"]["deaths"] == 0
    assert debris(store) == []
