"""What happened that somebody must hear of: kept in memory for status, handed on to telemetry, written to the log."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = ["KINDS", "Event", "Events", "Kind"]

_LOG = logging.getLogger("hyle_agent.events")
_KEPT = 64

Kind = Literal[
    "trial",
    "proven",
    "rollback",
    "drift-alarm",
    "recalibration",
    "self-test-failed",
    "device-fault",
    "fallback",
    "recovery",
    "override",
    "certificate",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_QUIET: frozenset[Kind] = frozenset({"trial", "proven", "recalibration", "recovery"})


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: What it was.
        model: The model, "" for the device.
        message: A sentence for people.
        data: Scalars by name; only those that telemetry's allow-list names leave the device.
        id: Unique.
        at: When, seconds since the epoch.
    """

    kind: Kind
    model: str
    message: str
    data: Mapping[str, float | str | bool] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    at: float = field(default_factory=time.time)


class Events:
    """The agent's events; `say` may be called on any thread.

    Args:
        heard: Told each event; telemetry's way in.
    """

    def __init__(self, heard: Callable[[Event], None] = lambda event: None) -> None:
        self.heard = heard
        self.last: deque[Event] = deque(maxlen=_KEPT)
        self.counts: Counter[tuple[str, Kind]] = Counter()

    def say(self, kind: Kind, model: str, message: str, **data: float | str | bool) -> None:
        """Log an event, keep it, and hand it on."""
        event = Event(kind, model, message, data)
        _LOG.log(logging.INFO if kind in _QUIET else logging.WARNING, "%s %s: %s", kind, model or "device", message)
        self.last.append(event)
        self.counts[model, kind] += 1
        self.heard(event)

    def count(self, model: str, kind: Kind) -> int:
        """Return how often it happened since the start."""
        return self.counts[model, kind]
