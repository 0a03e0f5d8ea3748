"""Events of agents, as CloudEvents in JSON, read from bytes of any origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from hyle_protos.sparkplug.event import EVENT_TYPE

__all__ = ["FleetEvent", "read_event"]

_LARGEST = 1 << 16
Short = Annotated[str, msgspec.Meta(max_length=512)]


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """One thing that happened.

    Attributes:
        id: Unique; an event may arrive twice.
        source: The node, `/hyle/GROUP/NODE`.
        kind: What it was, such as `drift-alarm`.
        subject: The model, or `device`.
        time: When, RFC 3339.
        message: A sentence for people.
        data: All that was said.
    """

    id: str
    source: str
    kind: str
    subject: str
    time: str
    message: str
    data: Mapping[str, str | float | bool]


class _Wire(msgspec.Struct, frozen=True):
    id: Short
    source: Short
    type: Short
    specversion: Short
    time: Short = ""
    subject: Short = ""
    data: dict[Short, str | float | bool] = {}


def read_event(payload: bytes) -> FleetEvent | None:
    """Read an event; None for anything that is none of an agent's."""
    if len(payload) > _LARGEST:
        return None
    try:
        wire = msgspec.json.decode(payload, type=_Wire)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if wire.specversion != "1.0" or not wire.type.startswith(EVENT_TYPE):
        return None
    message = str(wire.data.get("message", ""))
    return FleetEvent(
        wire.id, wire.source, wire.type.removeprefix(EVENT_TYPE), wire.subject, wire.time, message, wire.data
    )
