"""When the next report is due, and what it is read from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hyle_agent.snapshot import NodeSnapshot

__all__ = ["CHANGE_GAP_S", "Schedule", "StateReader"]

CHANGE_GAP_S = 0.05
_LOG = logging.getLogger("hyle_agent.telemetry")


class Schedule:
    """A report every interval, and soon after each change.

    Args:
        interval_s: Seconds between reports.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._changed = True
        self._next_report = 0.0

    def hasten(self) -> None:
        """Note a change; from any thread."""
        self._changed = True

    def restart(self) -> None:
        """Begin the next interval; to be called before the state is read, so that no change is lost."""
        self._changed = False
        self._next_report = time.monotonic() + self._interval_s

    def left(self) -> float:
        """Seconds until a report is due; 0 or less when it is."""
        due = self._next_report - (self._interval_s - CHANGE_GAP_S if self._changed else 0.0)
        return due - time.monotonic()


class StateReader:
    """Reads the agent's state, and says once when that fails.

    Args:
        snapshot: Gives the state; may raise.
    """

    def __init__(self, snapshot: Callable[[], NodeSnapshot]) -> None:
        self._snapshot = snapshot
        self._failed = False

    def read(self) -> NodeSnapshot | None:
        """The state now; None when it cannot be read."""
        try:
            snapshot = self._snapshot()
        except Exception as error:
            if not self._failed:
                _LOG.warning("Telemetry cannot read the agent's state (%s); reports wait.", type(error).__name__)
            self._failed = True
            return None
        self._failed = False
        return snapshot
