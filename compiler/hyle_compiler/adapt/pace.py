"""How far a training has come: by its steps, or by its time where that will not do for all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["Pace"]


@dataclass(frozen=True, slots=True)
class Pace:
    """One part of a training; its time runs from the moment it is made.

    Attributes:
        steps: Steps of the part.
        seconds: Longest time that it may take.
    """

    steps: int
    seconds: float
    _began: float = field(default_factory=lambda: time.monotonic())

    @property
    def spent(self) -> float:
        """Share of the time that is spent, 1 and more when it is over."""
        return (time.monotonic() - self._began) / self.seconds if self.seconds > 0.0 else 1.0

    @property
    def over(self) -> bool:
        """Whether the time is spent."""
        return self.spent >= 1.0

    def progress(self, step: int, first: int = 0) -> float:
        """Share of the part that is done at a step, from 0 to 1: of its steps after the `first`, or of its time.

        Time decides only where the steps would take longer than there is: elsewhere results repeat.
        """
        return min(1.0, max((step - first) / max(1, self.steps - first), self.spent))
