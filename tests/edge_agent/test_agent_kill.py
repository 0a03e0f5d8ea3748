"""SIGKILL at any moment of an install: a restart serves the old or the new bundle, whole, without debris."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from agent_fakes import Operator, debris, make_bundle
from test_agent_control import version_that_answers

HERE = Path(__file__).parent
MODES = ("before", "after", "torn")


class Worker:
    """The process that installs in children that kill themselves."""

    def __init__(self, folder: Path) -> None:
        for version in (1, 2, 3):
            make_bundle(folder, version).rename(folder / f"{version}.hyle")
        command = [sys.executable, str(HERE / "kill_worker.py"), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **plan: object) -> dict[str, dict[str, object]]:
        print(json.dumps(plan), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def steps(self) -> int:
        return int(str(self.ask(at=-1, mode="before")["install"]["steps"]))


@pytest.fixture
def worker() -> Iterator[Worker]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a SIGKILL loses no write; only speed differs
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        made = Worker(Path(folder))
        yield made
        made.process.stdin.close()
        made.process.wait(20)
        made.process.stdout.close()


def test_a_kill_at_every_step_leaves_the_old_or_the_new_bundle_whole(worker: Worker) -> None:
    steps = worker.steps()
    assert steps > 40
    served: Counter[object] = Counter()
    plans = [{"at": at, "mode": mode} for at in range(steps) for mode in MODES]
    for plan in plans:
        outcome = worker.ask(**plan)
        assert outcome["install"] == {"killed": signal.SIGKILL}, plan
        assert outcome["boot"].get("debris") == [], (plan, outcome)
        assert outcome["boot"]["reason"] == "", (plan, outcome)
        served[outcome["boot"]["version"]] += 1
    assert served.total() == 3 * steps
    assert set(served) == {2, 3}


def test_a_kill_during_the_start_after_a_kill_is_survived_as_well(worker: Worker) -> None:
    random_moments = random.Random(21)
    steps = worker.steps()
    killed_twice = 0
    for _ in range(40):
        at, boot_at = random_moments.randrange(steps), random_moments.randrange(12)
        outcome = worker.ask(at=at, boot_at=boot_at, mode=random_moments.choice(MODES))
        killed_twice += "killed" in outcome["first_boot"]
        assert outcome["boot"].get("debris") == [], (at, boot_at, outcome)
        assert outcome["boot"]["version"] in {2, 3}
    assert killed_twice > 10


class Process:
    """An agent process."""

    def __init__(self, store: Path, ready: Path) -> None:
        ready.unlink(missing_ok=True)
        command = [sys.executable, str(HERE / "agent_process.py"), str(store), str(ready)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 30
        while not ready.exists():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < end, "the agent did not start"
            time.sleep(0.01)
        self.address = ready.read_text()

    def end(self, how: signal.Signals) -> str:
        self.process.send_signal(how)
        return self.process.communicate(timeout=30)[1]


def test_a_kill_of_a_running_agent_at_random_times_is_survived(tmp_path: Path) -> None:
    times = random.Random(22)
    store, ready = tmp_path / "store", tmp_path / "ready"
    served = 0
    for _ in range(8):
        agent = Process(store, ready)
        with grpc.insecure_channel(agent.address) as channel:
            if served:
                assert version_that_answers(channel) in {served, served + 1}
                served = version_that_answers(channel)
                assert debris(store) == []
            else:
                Operator(channel).deploy(make_bundle(tmp_path, 1))
                served = 1
            bundle = make_bundle(tmp_path, served + 1, padding=300_000)
            deploying = threading.Thread(target=_deploy_until_dead, args=(agent.address, bundle))
            deploying.start()
            time.sleep(times.uniform(0, 0.25))
            agent.end(signal.SIGKILL)
            deploying.join(20)


def _deploy_until_dead(address: str, bundle: Path) -> None:
    with grpc.insecure_channel(address) as channel, contextlib.suppress(grpc.RpcError):
        Operator(channel).deploy(bundle)


def test_sigterm_stops_the_process_cleanly(tmp_path: Path) -> None:
    agent = Process(tmp_path / "store", tmp_path / "ready")
    words = agent.end(signal.SIGTERM)
    assert agent.process.returncode == 0
    assert f"hyle agent ready on {agent.address}" in words
    assert "Traceback" not in words
