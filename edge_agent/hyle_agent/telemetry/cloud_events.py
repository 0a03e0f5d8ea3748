"""Events as CloudEvents 1.0 in JSON: only scalars that the allow-list names, and a sentence of bounded length.

Source: CloudEvents 1.0.2, JSON event format.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from hyle_protos.sparkplug.event import EVENT_TYPE

from hyle_agent.events import Event
from hyle_agent.telemetry.metrics import EVENT_FIELDS, fit

__all__ = ["encode_event"]


@dataclass(frozen=True, slots=True)
class _CloudEvent:
    specversion: str
    id: str
    source: str
    type: str
    time: str
    subject: str
    datacontenttype: str
    data: Mapping[str, object]


def encode_event(event: Event, group: str, node: str) -> bytes:
    """Return an event as one JSON document.

    Args:
        event: What happened.
        group: Sparkplug group.
        node: Sparkplug edge node.
    """
    said = {"message": event.message, **event.data}
    data = {entry.name: fit(entry, said[entry.field]) for entry in EVENT_FIELDS if entry.field in said}
    at = datetime.datetime.fromtimestamp(max(0.0, event.at), datetime.UTC)
    whole = _CloudEvent(
        specversion="1.0",
        id=event.id,
        source=f"/hyle/{group}/{node}",
        type=EVENT_TYPE + event.kind,
        time=at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        subject=event.model or "device",
        datacontenttype="application/json",
        data={name: value for name, value in data.items() if value is not None},
    )
    return msgspec.json.encode(whole)
