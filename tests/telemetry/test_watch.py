"""`hyle watch` and the brokers that this machine can start."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_fakes import Host, State, until
from hyle_agent.telemetry import Telemetry
from hyle_deploy import broker as brokers
from hyle_deploy.broker import Broker, BrokerStartError, NoBrokerError, available_brokers, start_broker
from hyle_deploy.watch import BrokerAddress, BrokerUnreachableError, FleetWatch
from hyle_errors import CallerError

from hyle.cli import main
from hyle.commands import watch as verb
from hyle.console import Console

Report = Callable[..., Telemetry]


def test_a_watch_that_comes_late_asks_for_births_and_then_knows_the_fleet(any_broker: Broker, report: Report) -> None:
    state = State()
    telemetry = report(any_broker.port, state)
    until(lambda: telemetry.online)
    with FleetWatch(BrokerAddress(any_broker.host, any_broker.port)) as watch:
        state.request()
        telemetry.notify()
        until(lambda: watch.state().nodes and watch.state().nodes[0]["models"])
        (node,) = watch.state().nodes
        assert watch.state().connected
        assert (watch.state().rebirths, node["state"]) == (1, "online")
        assert node["models"]["lenet"]["metrics"]["requests"] == 6
        telemetry.stop()
        until(lambda: watch.state().nodes[0]["state"] == "offline")
        assert watch.wait(1.0)


def test_a_watch_that_only_listens_sends_nothing(mosquitto: Broker, report: Report) -> None:
    state = State()
    telemetry = report(mosquitto.port, state)
    until(lambda: telemetry.online)
    with Host(mosquitto.port) as host, FleetWatch(BrokerAddress("127.0.0.1", mosquitto.port), ask=False) as watch:
        state.request()
        telemetry.notify()
        until(lambda: watch.state().nodes)
        assert watch.state().nodes[0]["state"] == "stale"
        assert host.of("NCMD") == []


def test_a_watch_of_one_group_sees_no_other(mosquitto: Broker, report: Report) -> None:
    with FleetWatch(BrokerAddress("127.0.0.1", mosquitto.port), "mine") as watch:
        report(mosquitto.port, State(), group="other")
        report(mosquitto.port, State(), group="mine")
        until(lambda: watch.state().nodes)
        assert [node["group"] for node in watch.state().nodes] == ["mine"]


def test_a_watch_whose_broker_goes_knows_nothing_for_sure(mosquitto: Broker, report: Report) -> None:
    with FleetWatch(BrokerAddress("127.0.0.1", mosquitto.port)) as watch:
        report(mosquitto.port, State().moving())
        until(lambda: watch.state().nodes)
        mosquitto.stop()
        until(lambda: not watch.state().connected)
        until(lambda: watch.state().nodes[0]["state"] in {"stale", "offline"})


def test_a_port_where_no_broker_is_is_the_callers_mistake() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(BrokerUnreachableError) as caught:
            FleetWatch(BrokerAddress("127.0.0.1", held.getsockname()[1]))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "host", "port"), [("h", "h", 1883), ("h:8", "h", 8), ("[::1]:9", "::1", 9), ("[::1]", "::1", 1883)]
)
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    assert BrokerAddress.parse(text) == BrokerAddress(host, port)


@pytest.mark.parametrize("text", ["", ":1", "h:", "h:x", "h:0", "h:65536", "h:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(CallerError):
        BrokerAddress.parse(text)


def test_files_of_the_account_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="password"):
        FleetWatch(BrokerAddress("127.0.0.1", username="a", password_file=str(tmp_path / "none")))
    with pytest.raises(CallerError, match="certificate"):
        FleetWatch(BrokerAddress("127.0.0.1", ca_file=str(tmp_path / "none")))


def test_the_verb_gives_one_json_document(
    mosquitto: Broker, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    report(mosquitto.port, State().moving())
    assert main(["watch", "--broker", f"127.0.0.1:{mosquitto.port}", "--json", "--seconds", "1.5"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["connected"]
    assert document["nodes"][0]["models"]["lenet"]["metrics"]["ready"] is True


def test_the_verb_shows_a_table_once(mosquitto: Broker, report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report(mosquitto.port, State().moving())
    assert main(["watch", "--broker", f"127.0.0.1:{mosquitto.port}", "--once", "--seconds", "1.5"]) == 0
    shown = "".join(capsys.readouterr())
    assert "hyle/edge" in shown
    assert "lenet" in shown
    assert "0.01 / 0.05" in shown


@pytest.mark.parametrize("rich", [True, False])
def test_the_verb_shows_the_fleet_live(
    rich: bool,
    mosquitto: Broker,
    report: Report,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.live", None)
    report(mosquitto.port, State().moving())
    assert main(["watch", "--broker", f"127.0.0.1:{mosquitto.port}", "--seconds", "1.5"]) == 0
    assert "lenet" in "".join(capsys.readouterr())


def test_the_verb_ends_with_ctrl_c_and_shows_what_it_knew(mosquitto: Broker, report: Report) -> None:
    report(mosquitto.port, State().moving())
    command = [sys.executable, "-m", "hyle.cli", "watch", "--broker", f"127.0.0.1:{mosquitto.port}"]
    with (
        Host(mosquitto.port) as host,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background jobs, and what they start, ignore interrupts; a person's command does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
    ):
        try:
            host.await_count(1, "NCMD")
            process.send_signal(signal.SIGINT)
            shown = process.communicate(timeout=20)[0]
        finally:
            process.kill()
    assert process.returncode == 0
    assert "hyle/edge" in shown


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300", "soon"])
def test_no_time_to_watch_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--broker", "127.0.0.1:1", "--once", f"--seconds={seconds}"]) == 2
    assert "--seconds" in capsys.readouterr().err


def test_what_came_over_the_network_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [
        {"group": "g", "node": "\x1b[2J", "state": "online", "models": {}},
        {"group": "g", "node": "n", "state": "online", "models": {"m\x1b": {"online": True, "metrics": {}}}},
    ]
    verb.render({"nodes": nodes, "messages": 1, "refused": 2, "connected": False}, Console())
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    assert "2 unreadable" in shown
    assert "the broker is away" in shown


def test_a_broker_listens_on_loopback_alone_and_leaves_nothing_behind(any_broker: Broker, tmp_path: Path) -> None:
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {
        fields[1] for fields in listening if fields[1].endswith(f":{any_broker.port:04X}") and fields[3] == "0A"
    }
    assert addresses == {f"0100007F:{any_broker.port:04X}"}
    any_broker.stop()
    any_broker.stop()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", any_broker.port), timeout=1)


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    for kind in available_brokers():
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BrokerStartError) as caught:
            start_broker(tmp_path, kind=kind, port=taken.getsockname()[1])
        assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_without_a_broker_the_remedy_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoBrokerError):
        start_broker(tmp_path, kind="other")
    monkeypatch.setattr(brokers, "available_brokers", list)
    with pytest.raises(NoBrokerError) as caught:
        start_broker(tmp_path)
    assert "mosquitto" in caught.value.remedy
    assert "hyle[demo]" in caught.value.remedy


def test_a_broker_starts_in_a_folder_that_is_named_relatively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    with start_broker(Path("here")) as broker:
        assert broker.port > 0
