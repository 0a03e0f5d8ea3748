"""Sparkplug B 3.0 telemetry of an agent: aggregates only, over MQTT, off the agent's way."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable

from hyle_agent.snapshot import NodeSnapshot
from hyle_agent.telemetry.config import TelemetryConfig, TelemetryConfigError
from hyle_agent.telemetry.metrics import audit_rows, print_audit
from hyle_agent.telemetry.reporter import Telemetry

__all__ = ["Telemetry", "TelemetryConfig", "TelemetryConfigError", "audit_rows", "print_audit", "start"]

_LOG = logging.getLogger("hyle_agent.telemetry")


def start(
    config: TelemetryConfig, snapshot: Callable[[], NodeSnapshot], *, on_rebirth: Callable[[], None] | None = None
) -> Telemetry:
    """Begin to report; returns at once, whether the broker is there or not.

    Args:
        config: Broker, names, intervals.
        snapshot: Gives the agent's state; called on telemetry's own thread.
        on_rebirth: Called there after births that a host asked for.

    Returns:
        The running reporter; stop it before the process ends, so that the fleet sees a death and not a loss.

    Raises:
        TelemetryConfigError: A file that the configuration names cannot be read.
    """
    config.check_files()
    if config.username is not None and config.ca_file is None and not _is_loopback(config.host):
        _LOG.warning("Telemetry sends its password to %s unencrypted; set telemetry.ca_file for TLS.", config.host)
    return Telemetry(config, snapshot, on_rebirth)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
