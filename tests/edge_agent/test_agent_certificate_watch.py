"""Certificates that end while an agent runs are told of in time, each stage once."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import msgspec
import pytest
from agent_fakes import config_for, running
from hyle_agent import certificates
from hyle_agent.certificate_watch import CertificateWatch, Validity
from hyle_agent.config import read_config
from hyle_agent.events import Events
from hyle_agent.initial import write_initial

DAY = datetime.timedelta(days=1)
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def stages(life_days: float) -> list[tuple[float, str]]:
    """Days before the end at which something is said, looking every hour, and what."""
    ends = NOON + life_days * DAY
    clock = [NOON]
    events = Events()
    watch = CertificateWatch(Validity("certificate", "here.crt", NOON, ends), events, lambda: clock[0])
    told: list[tuple[float, str]] = []
    while clock[0] <= ends + 2 * DAY:
        before = len(events.last)
        watch.look()
        told += [((ends - clock[0]) / DAY, event.message) for event in list(events.last)[before:]]
        clock[0] += DAY / 24
    assert all(event.kind == "certificate" for event in events.last)
    return told


def test_a_year_is_told_of_four_times() -> None:
    told = stages(365)
    assert [days for days, _ in told] == [30, 7, 1, 0]
    assert "tls.certificate expires on 2027-01-01 at 12:00 UTC" in told[0][1]
    assert "has expired" in told[-1][1]
    assert all("restart the agent" in message for _, message in told)


@pytest.mark.parametrize(("life", "said_at"), [(30, [7, 1, 0]), (3, [1, 0]), (1, [0])])
def test_a_short_life_is_not_complained_of(life: float, said_at: list[float]) -> None:
    assert [days for days, _ in stages(life)] == said_at


def test_an_agent_that_starts_late_says_the_last_stage_alone() -> None:
    events = Events()
    validity = Validity("client_ca", "here.crt", NOON - 360 * DAY, NOON + 5 * DAY)
    watch = CertificateWatch(validity, events, lambda: NOON)
    watch.look()
    watch.look()
    assert len(events.last) == 1
    assert "tls.client_ca expires on 2026-01-06" in events.last[0].message


def test_an_agent_watches_what_ends_first(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = write_initial(tmp_path / "old")
    monkeypatch.setattr(certificates, "_BACKDATED", 365 * certificates._YEARS * DAY - 5 * DAY)
    tls = read_config(old.config).tls
    assert tls is not None
    ending = read_config(write_initial(tmp_path / "ending").config).tls
    assert ending is not None
    both = msgspec.structs.replace(tls, client_ca=ending.client_ca)
    with caplog.at_level(logging.WARNING), running(config_for(store, tls=both)) as agent:
        assert agent.address
    told = [record.getMessage() for record in caplog.records if record.name == "hyle_agent.events"]
    assert len(told) == 1
    assert told[0].startswith("certificate device: the certificate of tls.client_ca expires on ")
