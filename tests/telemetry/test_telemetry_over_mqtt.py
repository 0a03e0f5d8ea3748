"""The reporting thread against real brokers, read by an independent decoder."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from fleet_fakes import Host, State, model, until
from hyle_agent.telemetry import Telemetry
from hyle_deploy.broker import Broker, start_broker
from sparkplug_wire import rebirth_command

Report = Callable[..., Telemetry]
NCMD = "spBv1.0/hyle/NCMD/edge"

AGENT = """
import sys
sys.path.insert(0, sys.argv[2])
from fleet_fakes import State
from hyle_agent.telemetry import TelemetryConfig, start
telemetry = start(TelemetryConfig(host="127.0.0.1", port=int(sys.argv[1]), node="edge", interval_s=0.1), State())
input()
"""


def test_births_come_in_order_and_data_follow_on_change(any_broker: Broker, report: Report) -> None:
    state = State(model("lenet"), model("kws"))
    with Host(any_broker.port) as host:
        telemetry = report(any_broker.port, state)
        host.await_count(2, "DBIRTH")
        state.request()
        telemetry.notify()
        (data, *_) = host.await_count(1, "DDATA")
        assert telemetry.online
    assert [m.topic for m in host.received[:3]] == [
        "spBv1.0/hyle/NBIRTH/edge",
        "spBv1.0/hyle/DBIRTH/edge/lenet",
        "spBv1.0/hyle/DBIRTH/edge/kws",
    ]
    assert [metric.value for metric in data.payload.metrics] == [6]
    assert [m.payload.seq for m in host.received] == [n % 256 for n in range(len(host.received))]


def test_births_and_data_are_qos_0_and_nothing_is_retained(mosquitto: Broker, report: Report) -> None:
    state = State()
    with Host(mosquitto.port) as host:
        telemetry = report(mosquitto.port, state)
        host.await_count(1, "DBIRTH")
        state.request()
        telemetry.notify()
        host.await_count(1, "DDATA")
        assert {m.qos for m in host.received} == {0}
        telemetry.stop()
        assert host.await_count(1, "NDEATH")[0].qos == 1
    with Host(mosquitto.port) as late, Host(mosquitto.port, topics="probe/#") as probe:
        probe.publish("spBv1.0/hyle/NDATA/probe", b"")
        until(lambda: late.received)
        assert [m.topic for m in late.received] == ["spBv1.0/hyle/NDATA/probe"]


def test_a_clean_stop_says_its_death_once(any_broker: Broker, report: Report) -> None:
    with Host(any_broker.port) as host:
        telemetry = report(any_broker.port, State())
        host.await_count(1, "DBIRTH")
        telemetry.stop()
        telemetry.stop()
        deaths = host.await_count(1, "NDEATH")
        host.publish("spBv1.0/hyle/NDATA/probe", b"")
        until(lambda: host.received[-1].topic.endswith("probe"))
        assert len(host.of("NDEATH")) == 1
        assert deaths[0].bd_seq == host.of("NBIRTH")[0].bd_seq
        assert not telemetry.online


def test_the_will_arrives_when_the_process_is_killed(any_broker: Broker) -> None:
    with Host(any_broker.port) as host:
        agent = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(any_broker.port), str(Path(__file__).parent)], stdin=subprocess.PIPE
        )
        try:
            host.await_count(1, "DBIRTH")
            agent.send_signal(signal.SIGKILL)
            (death,) = host.await_count(1, "NDEATH")
        finally:
            agent.kill()
            agent.wait()
            agent.stdin.close()
        assert death.bd_seq == host.of("NBIRTH")[0].bd_seq
        assert [m.name for m in death.payload.metrics] == ["bdSeq"]
        assert (death.payload.seq, death.retain) == (None, False)


def test_a_broker_that_restarts_gets_new_births_and_what_it_missed(
    mosquitto: Broker, report: Report, tmp_path: Path
) -> None:
    state = State()
    with Host(mosquitto.port) as before:
        telemetry = report(mosquitto.port, state)
        before.await_count(1, "DBIRTH")
        first = before.of("NBIRTH")[0]
    mosquitto.stop()
    until(lambda: not telemetry.online)
    seen = state.reads
    state.request()
    until(lambda: state.reads > seen + 1)
    state.readable.clear()
    with start_broker(tmp_path, kind="mosquitto", port=mosquitto.port) as again, Host(again.port) as host:
        state.readable.set()
        host.await_count(1, "DBIRTH")
        replayed = host.await_count(1, "DDATA")[0].payload.metrics
        second = host.of("NBIRTH")[0]
        assert second.bd_seq == first.bd_seq + 1
        assert second.payload.seq == 0
        births = {m.alias: m.name for m in host.of("DBIRTH")[0].payload.metrics}
        assert [(births[m.alias], m.value, m.is_historical) for m in replayed] == [("requests", 6, True)]
        assert first.payload.timestamp <= replayed[0].timestamp <= second.payload.timestamp
        telemetry.stop()


def test_a_file_outbox_hands_samples_and_the_connection_number_to_the_next_process(
    mosquitto: Broker, report: Report, tmp_path: Path
) -> None:
    outbox = str(tmp_path / "outbox.sqlite")
    first = report(mosquitto.port, State(), outbox=outbox)
    until(lambda: first.online)
    first.stop()
    port = mosquitto.port
    mosquitto.stop()
    state = State()
    second = report(port, state, outbox=outbox)
    until(lambda: state.reads > 2)
    second.stop()
    with start_broker(tmp_path, kind="mosquitto", port=port) as again, Host(again.port) as host:
        third = report(port, State(), outbox=outbox)
        data = host.await_count(1, "NDATA")[0]
        assert host.of("NBIRTH")[0].bd_seq == 1
        assert all(m.is_historical for m in data.payload.metrics)
        third.stop()


def test_a_rebirth_asked_for_gives_all_births_with_the_same_bdseq(any_broker: Broker, report: Report) -> None:
    answered: list[bool] = []
    with Host(any_broker.port) as host:
        report(any_broker.port, State(), on_rebirth=lambda: answered.append(True))
        host.await_count(1, "DBIRTH")
        host.publish(NCMD, rebirth_command())
        host.await_count(2, "DBIRTH")
        first, second = host.of("NBIRTH")
        assert (first.bd_seq, second.payload.seq) == (second.bd_seq, 0)
        until(lambda: answered)


def test_a_flood_of_requests_for_rebirth_is_answered_by_few_births_and_the_last_is_not_lost(
    mosquitto: Broker, report: Report
) -> None:
    with Host(mosquitto.port) as host:
        report(mosquitto.port, State(), rebirth_gap_s=1.0)
        host.await_count(1, "DBIRTH")
        for _ in range(30):
            host.publish(NCMD, rebirth_command())
        host.await_count(3, "NBIRTH")
        host.publish(NCMD, rebirth_command(value=False))
        times = [m.payload.timestamp for m in host.of("NBIRTH")[1:]]
        assert all(later - earlier >= 990 for earlier, later in pairwise(times))


def test_garbage_commands_leave_it_reporting(mosquitto: Broker, report: Report) -> None:
    state = State()
    with Host(mosquitto.port) as host:
        telemetry = report(mosquitto.port, state)
        host.await_count(1, "DBIRTH")
        for garbage in (b"", b"\xff" * 40, b"\x12\xff\xff\xff\xff\x0f", rebirth_command()[:-1], b"\x08" * 70_000):
            host.publish(NCMD, garbage)
        host.publish(NCMD, rebirth_command())
        host.await_count(2, "NBIRTH")
        state.request()
        telemetry.notify()
        host.await_count(1, "DDATA")
        assert len(host.of("NBIRTH")) == 2


def test_a_model_that_is_installed_is_born_and_one_that_is_removed_dies(mosquitto: Broker, report: Report) -> None:
    state = State(model("a"))
    with Host(mosquitto.port) as host:
        telemetry = report(mosquitto.port, state)
        host.await_count(1, "DBIRTH")
        state.now = dataclasses.replace(state.now, models=(model("b"),))
        telemetry.notify()
        host.await_count(2, "DBIRTH")
        assert host.await_count(1, "DDEATH")[0].topic == "spBv1.0/hyle/DDEATH/edge/a"
        assert host.of("DBIRTH")[1].topic == "spBv1.0/hyle/DBIRTH/edge/b"


def test_two_agents_of_one_group_are_apart(mosquitto: Broker, report: Report) -> None:
    with Host(mosquitto.port) as host:
        report(mosquitto.port, State(), node="one")
        report(mosquitto.port, State(), node="two")
        host.await_count(2, "DBIRTH")
        assert {m.topic for m in host.of("NBIRTH")} == {"spBv1.0/hyle/NBIRTH/one", "spBv1.0/hyle/NBIRTH/two"}
