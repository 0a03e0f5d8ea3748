"""Events of an agent over a real broker: at least once, also after an outage; only what the allow-list names."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fleet_fakes import State, until
from hyle_agent.events import KINDS, Event, Events
from hyle_agent.telemetry import Telemetry
from hyle_agent.telemetry.cloud_events import encode_event
from hyle_agent.telemetry.metrics import EVENT_FIELDS, LONGEST_TEXT
from hyle_deploy.broker import Broker, start_broker
from hyle_deploy.fleet_events import read_event
from hyle_deploy.watch import BrokerAddress, FleetWatch
from hypothesis import given
from hypothesis import strategies as st

from hyle.commands import watch as verb
from hyle.console import Console

Report = Callable[..., Telemetry]


def event(number: int, kind: str = "drift-alarm") -> Event:
    return Event(kind, "lenet", f"event {number}", {"residual": 0.25, "secret": 1.0})


def test_events_reach_a_watch_once_each_and_are_forgotten_at_the_brokers_acknowledgement(
    any_broker: Broker, report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox = tmp_path / "outbox.sqlite"
    with FleetWatch(BrokerAddress(any_broker.host, any_broker.port)) as watch:
        telemetry = report(any_broker.port, State(), outbox=str(outbox))
        events = Events(telemetry.tell)
        for number, kind in enumerate(KINDS):
            events.say(kind, "lenet", f"event {number}", residual=0.25, fault="stuck")
        until(lambda: len(watch.state().events) == len(KINDS))
        seen = watch.state().events
    assert [one.kind for one in seen] == list(KINDS)
    assert {one.source for one in seen} == {"/hyle/hyle/edge"}
    assert dict(seen[0].data) == {"message": "event 0", "residual": 0.25, "fault": "stuck"}
    until(lambda: rows(outbox) == 0)
    shown = [{field: getattr(one, field) for field in ("time", "source", "subject", "kind", "message")} for one in seen]
    verb.render({"nodes": [], "messages": 1, "refused": 0, "connected": True, "events": shown}, Console())
    assert "event 9" in capsys.readouterr().err


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM event").fetchone()[0])


def test_events_of_every_outage_are_taken_once_the_broker_is_back(
    mosquitto: Broker, report: Report, tmp_path: Path
) -> None:
    outbox = tmp_path / "outbox.sqlite"
    telemetry = report(mosquitto.port, State(), outbox=str(outbox))
    until(lambda: telemetry.online)
    port = mosquitto.port
    for flap in range(3):
        mosquitto.stop()
        until(lambda: not telemetry.online)
        for number in range(4):
            telemetry.tell(event(10 * flap + number))
        until(lambda: rows(outbox) == 4)
        folder = tmp_path / str(flap)
        folder.mkdir()
        mosquitto = start_broker(folder, kind="mosquitto", port=port)
        until(lambda: rows(outbox) == 0)  # a row goes at the broker's acknowledgement only
    mosquitto.stop()


def test_events_that_no_broker_took_survive_the_process(report: Report, tmp_path: Path, mosquitto: Broker) -> None:
    outbox = tmp_path / "outbox.sqlite"
    dead = report(1, State(), outbox=str(outbox))
    for number in range(3):
        dead.tell(event(number))
    dead.stop()
    assert rows(outbox) == 3
    with FleetWatch(BrokerAddress("127.0.0.1", mosquitto.port)) as watch:
        report(mosquitto.port, State(), outbox=str(outbox))
        until(lambda: [one.message for one in watch.state().events] == ["event 0", "event 1", "event 2"])


def test_only_named_scalars_of_bounded_length_leave_in_an_event() -> None:
    said = Event("fallback", "lenet", "x" * 5000, {"secret": 1.0, "residual": float("nan"), "fault": "stuck"})
    document = json.loads(encode_event(said, "hyle", "edge"))
    assert document["data"] == {"message": "x" * LONGEST_TEXT, "fault": "stuck"}
    assert set(document["data"]) <= {entry.name for entry in EVENT_FIELDS}
    assert (document["specversion"], document["type"]) == ("1.0", "hyle.agent.fallback")


def test_an_event_of_an_unset_clock_is_still_one() -> None:
    said = Event("trial", "", "m", at=-5.0)
    assert json.loads(encode_event(said, "g", "n"))["time"] == "1970-01-01T00:00:00.000Z"


@given(st.binary(max_size=300))
def test_garbage_is_no_event(payload: bytes) -> None:
    assert read_event(payload) is None


def test_an_event_of_somebody_else_is_none_of_ours() -> None:
    other = {"id": "1", "source": "/x", "type": "com.example", "specversion": "1.0"}
    assert read_event(json.dumps(other).encode()) is None
    assert read_event(json.dumps({**other, "type": "hyle.agent.trial"}).encode()) is not None
