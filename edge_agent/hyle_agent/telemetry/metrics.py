"""The allow-list: everything that an agent can ever send, and where it is read.

Every value of a report is read through one of these three tables, from a frozen dataclass of scalars; nothing else
has a way out. A tensor, a request or a file name has no entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hyle_protos.sparkplug.sparkplug_b_pb2 import DataType
from hyle_protos.sparkplug.value import Scalar

from hyle_agent.snapshot import ModelSnapshot, NodeSnapshot

__all__ = [
    "EVENT_FIELDS",
    "LONGEST_TEXT",
    "MODEL_METRICS",
    "NODE_METRICS",
    "Metric",
    "Readings",
    "audit_rows",
    "fit",
    "print_audit",
    "read_model",
    "read_node",
]

Readings = Mapping[str, Scalar | None]
LONGEST_TEXT = 200

_LIMITS = {DataType.UInt32: 1 << 32, DataType.UInt64: 1 << 64}


@dataclass(frozen=True, slots=True)
class Metric:
    """One value that may leave the device.

    Attributes:
        name: Name on the wire.
        datatype: Number of its Sparkplug type.
        unit: Unit, "" for what has none.
        field: Attribute of the snapshot that it reads.
        meaning: For the audit; one line.
    """

    name: str
    datatype: DataType
    unit: str
    field: str
    meaning: str


NODE_METRICS = (
    Metric("agent/version", DataType.String, "", "agent_version", "version of the agent's software"),
    Metric("agent/uptime_s", DataType.Double, "s", "uptime_s", "seconds since the agent was ready"),
    Metric("memory/rss_bytes", DataType.UInt64, "byte", "rss_bytes", "resident memory of the process"),
    Metric("device/driver", DataType.String, "", "driver", "name of the driver that owns the device"),
    Metric("device/profile", DataType.String, "", "profile", "name of the device's profile"),
    Metric("device/simulated", DataType.Boolean, "", "simulated", "whether the device is a digital twin"),
    Metric("device/tiles", DataType.UInt32, "", "tiles", "tiles that the device has"),
    Metric("device/tiles_used", DataType.UInt32, "", "tiles_used", "tiles that hold a programmed layer"),
    Metric("device/attached", DataType.Boolean, "", "device_attached", "whether the device answers"),
    Metric("device/fault", DataType.String, "", "device_fault", "name of what is wrong with it"),
)

MODEL_METRICS = (
    Metric("model", DataType.String, "", "name", "the model's name"),
    Metric("ready", DataType.Boolean, "", "ready", "whether requests are answered now"),
    Metric("reason", DataType.String, "", "reason", "why it is not ready, or what was rolled back last"),
    Metric("bundle/version", DataType.String, "", "version", "version of the bundle that serves"),
    Metric("bundle/digest", DataType.String, "", "digest", "SHA-256 of that bundle's manifest"),
    Metric("bundle/slot", DataType.String, "", "slot", "slot that serves"),
    Metric("bundle/installed_slots", DataType.String, "", "installed_slots", "slots that hold a bundle, by comma"),
    Metric("requests", DataType.UInt64, "", "requests", "requests answered or refused since the start"),
    Metric("errors", DataType.UInt64, "", "errors", "how many of those did not end in an answer"),
    Metric("queue_depth", DataType.UInt32, "", "queue_depth", "requests that wait for the device now"),
    Metric("latency/p50_s", DataType.Double, "s", "p50_s", "median latency of answered requests"),
    Metric("latency/p90_s", DataType.Double, "s", "p90_s", "the same, 90th percentile"),
    Metric("latency/p99_s", DataType.Double, "s", "p99_s", "the same, 99th percentile"),
    Metric(
        "self_test/residual", DataType.Double, "", "self_test_residual", "relative RMS residual of the last self-test"
    ),
    Metric("self_test/tolerance", DataType.Double, "", "self_test_tolerance", "the bound that it is held against"),
    Metric("energy_j", DataType.Double, "J", "energy_j", "estimated energy spent since the start"),
    Metric("substrate", DataType.String, "", "substrate", "what answers: hardware, twin or digital"),
    Metric("calibration/id", DataType.String, "", "calibration", "id of the compensation that answers"),
    Metric("calibration/age_s", DataType.Double, "s", "calibration_age_s", "seconds since it was measured"),
    Metric("fault", DataType.String, "", "fault", "name of what is wrong with the device"),
    Metric("bundle/on_trial", DataType.Boolean, "", "on_trial", "whether the slot is not marked good yet"),
    Metric("drift/score", DataType.Double, "", "drift_score", "sum of the drift detector, in standard deviations"),
    Metric("drift/limit", DataType.Double, "", "drift_limit", "the sum above which it is an alarm"),
    Metric("drift/alarms", DataType.UInt64, "", "drift_alarms", "drift alarms since the start"),
    Metric("recalibrations", DataType.UInt64, "", "recalibrations", "calibrations that the agent decided on"),
    Metric("fallbacks", DataType.UInt64, "", "fallbacks", "how often something stood in for the device"),
    Metric("rollbacks", DataType.UInt64, "", "rollbacks", "how often the old slot was gone back to"),
)

EVENT_FIELDS = (
    Metric("message", DataType.String, "", "message", "what happened, for people"),
    Metric("residual", DataType.Double, "", "residual", "relative RMS residual of the self-test"),
    Metric("limit", DataType.Double, "", "limit", "the drift detector's limit"),
    Metric("fault", DataType.String, "", "fault", "name of what is wrong with the device"),
    Metric("substrate", DataType.String, "", "substrate", "what answers from now on"),
    Metric("calibration", DataType.String, "", "calibration", "id of the new compensation"),
    Metric("slot", DataType.String, "", "slot", "slot that serves"),
    Metric("version", DataType.String, "", "version", "version that serves or was let in"),
)


def read_node(snapshot: NodeSnapshot) -> Readings:
    """The node's metrics, by name; None for a number that is not there (NaN) or does not fit its type."""
    return {metric.name: fit(metric, getattr(snapshot, metric.field)) for metric in NODE_METRICS}


def read_model(snapshot: ModelSnapshot) -> Readings:
    """One model's metrics, by name; None as in `read_node`."""
    return {metric.name: fit(metric, getattr(snapshot, metric.field)) for metric in MODEL_METRICS}


def audit_rows() -> list[tuple[str, str, str, str, str]]:
    """The whole allow-list as rows of: who reports it, name, type, unit, meaning."""
    tables = (("node", NODE_METRICS), ("each model", MODEL_METRICS), ("each event", EVENT_FIELDS))
    return [(who, m.name, DataType.Name(m.datatype), m.unit, m.meaning) for who, table in tables for m in table]


def print_audit(write: Callable[[str], object] = print) -> None:
    """Write the allow-list as an aligned table.

    Args:
        write: Takes one line at a time.
    """
    rows = [("reported by", "metric", "type", "unit", "meaning"), *audit_rows()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        write("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))


def fit(metric: Metric, value: object) -> Scalar | None:
    """The value as the metric's type; None for anything that is not one, so that nothing else can pass.

    Args:
        metric: An entry of the allow-list.
        value: What the snapshot, or a kept sample, holds for it. Text is cut to `LONGEST_TEXT` characters.
    """
    if metric.datatype == DataType.String:
        return _text(value)
    if metric.datatype == DataType.Boolean:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if metric.datatype == DataType.Double:
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, int) and 0 <= value < _LIMITS[metric.datatype] else None


def _text(value: object) -> str | None:
    if isinstance(value, tuple):
        value = ",".join(item for item in value if isinstance(item, str))
    if not isinstance(value, str):
        return None
    return value[:LONGEST_TEXT].encode("utf-8", "replace").decode()
