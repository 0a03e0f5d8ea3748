"""Full and read-only disks, a clock that was never set, two agents on one store: refused or survived, and said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from agent_fakes import Operator, config_for, debris, make_bundle, running
from hyle_agent.initial import write_initial
from hyle_agent.slots import ModelState, decode_state
from hyle_bundle import generate_key
from hyle_bundle.names import MANIFEST_NAME
from hyle_protos.control import control_pb2 as pb
from small_disks import ext4, tmpfs
from test_agent_command import Served
from test_agent_control import refused, version_that_answers
from test_agent_real_bundle import compile_digits
from test_agent_tls import credentials
from test_agent_trials import boots, prepared, until

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    with tmpfs(tmp_path, "256k") as folder:
        yield folder


@pytest.fixture(params=["tmpfs", "ext4"])
def any_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small disk of one of several file systems."""
    with tmpfs(tmp_path, "256k") if request.param == "tmpfs" else ext4(tmp_path) as folder:
        yield folder


def fill(disk: Path) -> None:
    """Leave no room for a single byte more, nor for another file."""
    with (disk / "other").open("wb", buffering=0) as other, suppress(OSError):
        while True:
            other.write(bytes(4096))
    with pytest.raises(OSError, match="No space left"), (disk / "more").open("wb", buffering=0) as more:
        more.write(bytes(1))


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True, capture_output=True)


def stored(store: Path) -> ModelState:
    path = store / "models/small/state.json"
    return decode_state(path.read_bytes(), path)


@contextmanager
def given_way(store: Path, folder: Path, spoil: Callable[[], None], **options: float) -> Iterator[grpc.Channel]:
    """An agent whose version 2 failed its trial on a disk that `spoil` made unfit, and gave way to version 1."""
    with running(config_for(store, watch_s=0.2)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(folder, 1))
        until(lambda: not operator.model().on_trial)
    with running(config_for(store, watch_s=4.0, **options)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(folder, 2))
        spoil()
        agent.executor.programs[-1].sick = 9
        until(lambda: operator.model().active == "a")
        assert version_that_answers(channel) == 1
        assert "went back from version 2" in operator.model().reason
        yield channel


def test_an_agent_whose_disk_became_read_only_goes_on_serving_and_says_why_it_installs_nothing(
    tmp_path: Path, disk: Path
) -> None:
    first, second = make_bundle(tmp_path, 1), make_bundle(tmp_path, 2)
    with running(config_for(disk / "store")) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(first)
        remount(disk, "ro")
        error = refused(operator.install, second)
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "Read-only file system" in error.details()
        assert version_that_answers(channel) == 1
        remount(disk, "rw")
        operator.deploy(second)
        assert version_that_answers(channel) == 2
        assert debris(disk / "store") == []


def test_an_agent_that_starts_on_a_read_only_disk_serves_what_it_has_and_says_so(
    tmp_path: Path, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(config_for(disk / "store")) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
    remount(disk, "ro")
    with running(config_for(disk / "store")) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 1
        error = refused(Operator(channel).install, make_bundle(tmp_path, 2))
        assert "Read-only file system" in error.details()
    assert "is read-only: what is installed serves" in caplog.text


def test_an_agent_whose_store_would_be_new_on_a_read_only_disk_exits_1_and_says_why(disk: Path) -> None:
    remount(disk, "ro")
    command = [sys.executable, "-m", "hyle", "agent", "run", "--listen", "127.0.0.1:0", "--store", str(disk / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_slot_that_fails_its_trial_on_a_read_only_disk_gives_way_and_is_written_later(
    tmp_path: Path, any_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = any_disk / "store"
    with given_way(store, tmp_path, lambda: remount(any_disk, "ro"), self_test_interval_s=0.2) as channel:
        operator = Operator(channel)
        assert "what serves now is not written, and a start would forget it" in caplog.text
        assert stored(store).active == "b"
        remount(any_disk, "rw")
        until(lambda: stored(store).active == "a")
        operator.deploy(make_bundle(tmp_path, 3))
        assert version_that_answers(channel) == 3
        assert debris(store) == []


def test_a_trial_whose_deaths_cannot_be_counted_is_not_run(tmp_path: Path, any_disk: Path) -> None:
    """A slot that kills its process would otherwise do so for ever."""
    store = any_disk / "store"
    prepared(store, tmp_path)
    remount(any_disk, "ro")
    for _ in range(2):
        version, reason = boots(store, tmp_path, 1)
        assert version == "1"
        assert "the store cannot be written" in reason
    remount(any_disk, "rw")
    assert boots(store, tmp_path, 1) == ("2", "")


def test_a_slot_that_cannot_start_on_a_read_only_disk_lets_the_other_one_serve(tmp_path: Path, any_disk: Path) -> None:
    store = any_disk / "store"
    with running(config_for(store, watch_s=0.0)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        operator.deploy(make_bundle(tmp_path, 2))
    state = stored(store)
    (store / "models/small" / state.slots[state.active].digest / MANIFEST_NAME).write_bytes(b"{}")
    remount(any_disk, "ro")
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 1
        assert "serves instead" in Operator(channel).model().reason


def test_an_agent_starts_on_a_full_disk_and_serves_what_it_has(tmp_path: Path, disk: Path) -> None:
    with running(config_for(disk / "store")) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
    room = os.statvfs(disk)
    (disk / "other").write_bytes(bytes(room.f_bavail * room.f_frsize))
    assert os.statvfs(disk).f_bavail == 0
    with running(config_for(disk / "store")) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 1
        error = refused(Operator(channel).install, make_bundle(tmp_path, 2))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert version_that_answers(channel) == 1


def test_a_slot_that_fails_its_trial_on_a_full_disk_gives_way_and_stays_away(tmp_path: Path, any_disk: Path) -> None:
    store = any_disk / "store"
    with given_way(store, tmp_path, lambda: fill(any_disk)):
        pass
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 1
        assert debris(store) == []


def test_an_operator_goes_back_and_forth_on_a_full_disk(tmp_path: Path, any_disk: Path) -> None:
    store = any_disk / "store"
    with running(config_for(store, watch_s=0.0)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        operator.deploy(make_bundle(tmp_path, 2))
        fill(any_disk)
        for version in (1, 2) * 5:
            operator.stub.Rollback(pb.RollbackRequest(model="small"))
            assert version_that_answers(channel) == version
        assert refused(operator.install, make_bundle(tmp_path, 3)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        operator.stub.Rollback(pb.RollbackRequest(model="small"))
        assert version_that_answers(channel) == 1


def test_deaths_on_trial_are_counted_on_a_full_disk(tmp_path: Path, any_disk: Path) -> None:
    store = any_disk / "store"
    prepared(store, tmp_path)
    fill(any_disk)
    assert boots(store, tmp_path, 2) == ("2", "")
    version, reason = boots(store, tmp_path, 1)
    assert version == "1"
    assert "the process died 3 times while it was on trial" in reason


def test_of_agents_that_start_on_one_store_together_one_serves_and_the_others_say_why(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hyle", "agent", "run", "--listen", "127.0.0.1:0"]
    command += ["--insecure", "--profile", "ideal", "--store", str(tmp_path / "store")]
    agents = [
        subprocess.Popen([*command, "--ready-file", str(tmp_path / f"ready-{n}")], stderr=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    losers: list[subprocess.Popen[str]] = []
    for _ in range(600):
        losers = [agent for agent in agents if agent.poll() is not None]
        if len(losers) == 2:
            break
        time.sleep(0.1)
    assert len(losers) == 2
    words = "".join(agent.communicate(timeout=30)[1] for agent in losers)
    assert [agent.returncode for agent in losers] == [2, 2]
    assert words.count("Another agent owns") == 2
    (winner,) = set(agents) - set(losers)
    winner.send_signal(signal.SIGTERM)
    assert "ready on" in winner.communicate(timeout=30)[1]
    assert winner.returncode == 0


@pytest.fixture
def unset_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    if FAKETIME is None:
        pytest.skip("libfaketime is not installed")
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME", "@1970-01-01 00:00:10")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")


def test_an_agent_whose_clock_was_never_set_installs_and_serves(tmp_path: Path, unset_clock: None) -> None:
    """The calibration's age is told from the same clock, and a report that is as old as the epoch is a report."""
    generate_key("me", tmp_path)
    bundle = compile_digits(tmp_path, "1")
    with (
        Served(tmp_path, "--trust", str(tmp_path / "me.pub")) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        operator = Operator(channel)
        assert operator.deploy(bundle).self_test.passed
        assert 0 < operator.model("digits").slots[0].self_test.at < 86_400
        assert operator.model("digits").ready
        _, said = served.end()
    assert "1970-01-01" in said


def test_an_agent_whose_clock_was_never_set_says_that_no_certificate_is_valid_yet(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = write_initial(tmp_path / "agent").config
    request.getfixturevalue("unset_clock")
    with Served(tmp_path, "--config", str(config)) as served:
        with (
            grpc.secure_channel(served.address, credentials(tmp_path / "agent/certs")) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            Operator(channel).model()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        _, said = served.end()
    assert "the clock says 1970-01-01" in said
    assert "certificates are refused until it is set" in said
