"""A lease of the device for maintenance: what one holder has, until when, and what was written under it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Literal

from hyle_substrates.driver import Codes, Driver, ProgramReport

from hyle_agent.errors import LeaseOverError, MaintenanceError
from hyle_agent.tiles import Span, window

__all__ = ["Lease", "Restoration", "Serving"]

Serving = Literal["device", "twin", "nothing"]


@dataclass(frozen=True, slots=True)
class Restoration:
    """How a model came back from maintenance; `reason` says why it did not."""

    name: str
    serves: bool
    residual: float = 0.0
    tolerance: float = 0.0
    reason: str = ""


@dataclass(slots=True, eq=False)
class Lease:
    """One holder's time with the device. Times are `time.monotonic()`; changed on the event loop only, but `written`.

    Attributes:
        token: Secret of the holder.
        holder: Who, for people.
        purpose: What for, for people.
        ends: When it is over at the latest.
        expires: When it is over unless it is renewed.
        span: The tiles that are lent; None before they are.
        serving: What answers inference meanwhile.
        replaced: Names of the models that were taken off the device and are not back.
        streams: Apply streams that are open.
        why: Why it is over, "" while it is not.
        over: Set when it is.
        written: By tile, number and report of the last write; touched on the device thread only.
    """

    token: str
    holder: str
    purpose: str
    ends: float
    expires: float
    span: Span | None = None
    serving: Serving = "device"
    replaced: set[str] = field(default_factory=set)
    streams: int = 0
    why: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    written: dict[int, tuple[int, ProgramReport]] = field(default_factory=dict)

    @property
    def until(self) -> str:
        """When it expires unless it is renewed, wall clock."""
        left = max(0.0, self.expires - time.monotonic())
        return time.strftime("%H:%M:%S", time.localtime(time.time() + left))

    @property
    def words(self) -> str:
        """Who holds the device, what for and until when."""
        purpose = f" ({self.purpose})" if self.purpose else ""
        return f"the device is lent to {self.holder}{purpose} until {self.until}, or longer if it is renewed"

    def refusal(self, name: str) -> MaintenanceError | None:
        """Why a model cannot answer, if this lease is the reason."""
        if name not in self.replaced:
            return None
        why = self.words if not self.why else "it is being brought back from maintenance"
        message = f"Model {name!r} cannot answer now: {why}."
        return MaintenanceError(message, retry_after_s=max(1.0, self.expires - time.monotonic()))

    def renew(self, for_s: float) -> None:
        """Let it last `for_s` from now, within its longest time."""
        self.expires = min(self.ends, time.monotonic() + for_s)

    def shorten(self, to_s: float) -> None:
        """Let it last at most `to_s` from now."""
        self.expires = min(self.expires, time.monotonic() + to_s)

    def check(self) -> None:
        """Refuse what comes late.

        Raises:
            LeaseOverError: It is over.
        """
        if self.why:
            raise LeaseOverError(f"The lease is over: {self.why}.", remedy="Open another one.")

    def program(self, driver: Driver, tile: int, targets: Codes, number: int) -> ProgramReport:
        """Write one tile, or tell again what a write of that number reached; on the device thread.

        Raises:
            LeaseOverError: It is over.
            DeviceError: The device refused or did not answer.
        """
        self.check()
        assert self.span is not None
        done, report = self.written.get(tile, (0, None))
        if report is not None and 0 < number <= done:
            return report
        report = window(driver, self.span).program(tile, targets)
        self.written[tile] = (max(number, done), report)
        return report

    def apply(self, driver: Driver, tiles: list[int], codes: Codes) -> Codes:
        """Drive and read; on the device thread.

        Raises:
            LeaseOverError: It is over.
            DeviceError: The device did not answer.
        """
        self.check()
        assert self.span is not None
        return window(driver, self.span).apply(tiles, codes)
