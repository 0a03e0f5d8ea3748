"""Certificates end while an agent runs; what serves says so in time."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from dataclasses import dataclass

from hyle_agent.events import Events

__all__ = ["CertificateWatch", "Validity"]

_LOOK_S = 3600.0
_DAYS = (30.0, 7.0, 1.0, 0.0)
# A certificate that lives for a day only is renewed by a machine; nobody is told of it for all of its life.
_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate of the configuration is valid.

    Attributes:
        field: Where the configuration names its file, in the table `tls`.
        path: The file.
        begins: When it begins to be valid, UTC.
        ends: When it ends, UTC.
    """

    field: str
    path: str
    begins: datetime.datetime
    ends: datetime.datetime


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class CertificateWatch:
    """Says a month, a week and a day before a certificate ends, and when it did, that it does: each once.

    Args:
        validity: The one that ends first.
        events: Hears of it.
        now: The clock, UTC.
    """

    def __init__(self, validity: Validity, events: Events, now: Callable[[], datetime.datetime] = _now) -> None:
        self._validity = validity
        self._events = events
        self._now = now
        longest = (validity.ends - validity.begins) * _SHARE
        self._stages = [day for day in _DAYS if datetime.timedelta(days=day) <= longest]
        self._told = 0

    async def run(self) -> None:
        """Look every hour, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Say what became due since the last look."""
        one, left = self._validity, self._validity.ends - self._now()
        stage = sum(left <= datetime.timedelta(days=day) for day in self._stages)
        if stage <= self._told:
            return
        self._told = stage
        said = "has expired" if left <= datetime.timedelta() else f"expires on {one.ends:%Y-%m-%d at %H:%M} UTC"
        message = f"the certificate of tls.{one.field} {said}; put a new one in its place and restart the agent"
        self._events.say("certificate", "", message)
