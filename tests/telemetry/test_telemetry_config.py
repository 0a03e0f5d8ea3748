"""The telemetry table of the agent's configuration."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from fleet_fakes import State
from hyle_agent.telemetry import TelemetryConfig, TelemetryConfigError, start
from hyle_protos.sparkplug.topic import is_valid_id


def test_a_host_alone_is_enough_and_the_node_is_this_machine() -> None:
    config = msgspec.toml.decode(b'host = "broker"', type=TelemetryConfig)
    assert (config.port, config.group, config.interval_s) == (1883, "hyle", 10.0)
    assert is_valid_id(config.node)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("port = 0", "telemetry.port is 0"),
        ("interval_s = 0.0", "telemetry.interval_s"),
        ("interval_s = nan", "telemetry.interval_s"),
        ("keepalive_s = 0", "telemetry.keepalive_s"),
        ("outbox_rows = 0", "telemetry.outbox_rows"),
        ('group = "a/b"', "telemetry.group 'a/b'"),
        ('node = ""', "telemetry.node ''"),
        ('password_file = "f"', "without telemetry.username"),
        ("colour = 1", "unknown field"),
    ],
)
def test_a_wrong_value_names_its_field(line: str, said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(said)):
        msgspec.toml.decode(f'host = "broker"\n{line}', type=TelemetryConfig)


def test_an_empty_host_is_refused_with_a_remedy() -> None:
    with pytest.raises(TelemetryConfigError) as caught:
        TelemetryConfig(host="")
    assert caught.value.exit_code == 2
    assert caught.value.remedy


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_password_that_cannot_be_read_is_refused_at_the_start(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    config = TelemetryConfig(host="127.0.0.1", username="a", password_file=str(file))
    with pytest.raises(TelemetryConfigError) as caught:
        start(config, State())
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read_are_refused_at_the_start(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TelemetryConfigError, match="certificate"):
        start(TelemetryConfig(host="127.0.0.1", ca_file=str(file)), State())


@pytest.mark.parametrize(("host", "warns"), [("192.0.2.1", True), ("broker.invalid", True), ("127.0.0.1", False)])
def test_a_password_over_a_plain_connection_is_warned_of(
    host: str, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyle_agent.telemetry.Telemetry", lambda *_: None)
    (tmp_path / "p").write_text("x")
    start(TelemetryConfig(host=host, username="a", password_file=str(tmp_path / "p")), State())
    assert any("unencrypted" in record.getMessage() for record in caplog.records) is warns
