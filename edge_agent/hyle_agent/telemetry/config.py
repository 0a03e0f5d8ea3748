"""What the operator says of telemetry: the `[telemetry]` table of the agent's configuration."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import msgspec
from hyle_bundle.words import Text
from hyle_errors import CallerError
from hyle_protos.sparkplug.topic import is_valid_id, safe_id

__all__ = ["TelemetryConfig", "TelemetryConfigError"]

_RANGES: dict[str, tuple[float, float, str]] = {
    "port": (1, 65535, ""),
    "interval_s": (0.05, 86_400, " s"),
    "keepalive_s": (5, 3600, " s"),
    "outbox_rows": (1, 1_000_000, " rows"),
    "rebirth_gap_s": (0, 3600, " s"),
    "reconnect_max_s": (0.1, 3600, " s"),
}


class TelemetryConfigError(CallerError, ValueError):
    """A value of the telemetry configuration that cannot be used."""


def _host_name() -> str:
    return safe_id(socket.gethostname())


class TelemetryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how an agent reports.

    Attributes:
        host: Name or address of the MQTT broker.
        port: TCP port of the broker.
        group: Sparkplug group; the fleet that this node belongs to.
        node: Sparkplug edge node, unique in its group; the host's name by default. Two agents of one name push each
            other off the broker.
        interval_s: Seconds between reports of what has changed.
        keepalive_s: MQTT keepalive in seconds; the broker declares the node dead after 1.5 of it without a sign.
        username: Account at the broker; none by default.
        password_file: File whose first line is that account's password.
        ca_file: Certificates (PEM) that the broker's is checked against. Given, the connection is TLS; otherwise plain.
        outbox: SQLite file for samples taken while the broker is away; without it they are kept in memory, up to the
            same bound, and do not survive the process.
        outbox_rows: Most samples kept. One is written per interval for the node and each model that changed; when
            full, the oldest goes.
        rebirth_gap_s: Least seconds between births that a host asked for; requests in between are answered by one
            birth at the end.
        reconnect_max_s: Longest pause between two attempts to reach the broker.
    """

    host: Text
    port: int = 1883
    group: str = "hyle"
    node: str = msgspec.field(default_factory=_host_name)
    interval_s: float = 10.0
    keepalive_s: int = 15
    username: Text | None = None
    password_file: Text | None = None
    ca_file: Text | None = None
    outbox: Text | None = None
    outbox_rows: int = 10_000
    rebirth_gap_s: float = 2.0
    reconnect_max_s: float = 30.0

    def __post_init__(self) -> None:
        for field, (low, high, unit) in _RANGES.items():
            _check_range(field, getattr(self, field), low, high, unit)
        for field in ("group", "node"):
            _check_id(field, getattr(self, field))
        if not self.host:
            raise TelemetryConfigError(
                "telemetry.host is empty.", remedy="Give the name or address of the MQTT broker."
            )
        if self.password_file is not None and self.username is None:
            raise TelemetryConfigError(
                "telemetry.password_file is given without telemetry.username.",
                remedy="Give the account's name as well.",
            )

    def password(self) -> str | None:
        """The account's password.

        Raises:
            TelemetryConfigError: The file cannot be read, or is empty.
        """
        if self.password_file is None:
            return None
        lines = _read_text("telemetry.password_file", self.password_file).splitlines()
        if not lines or not lines[0]:
            raise TelemetryConfigError(
                f"telemetry.password_file {self.password_file} is empty.",
                remedy="Write the password on its first line.",
            )
        return lines[0]

    def check_files(self) -> None:
        """Find out now, not at the first connection, whether the files it names can be used.

        Raises:
            TelemetryConfigError: One cannot be read.
        """
        self.password()
        if self.ca_file is not None:
            _check_certificates(self.ca_file)


def _check_range(field: str, value: float, low: float, high: float, unit: str) -> None:
    if not low <= value <= high:
        raise TelemetryConfigError(
            f"telemetry.{field} is {value}{unit}, outside {low} to {high}{unit}.", remedy="Choose a value inside."
        )


def _check_id(field: str, value: str) -> None:
    if not is_valid_id(value):
        raise TelemetryConfigError(
            f"telemetry.{field} {value!r} cannot stand in an MQTT topic.",
            remedy="Use 1 to 64 printable characters without '+', '/' and '#'.",
        )


def _check_certificates(path: str) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise TelemetryConfigError(
            f"telemetry.ca_file {path} holds no readable certificate.",
            remedy="Give a PEM file of certificates.",
        ) from error


def _read_text(field: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TelemetryConfigError(
            f"{field} {path} cannot be read.", remedy="Give a text file that the agent's account may read."
        ) from error
