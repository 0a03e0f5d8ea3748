"""A twin that ages by itself and can only be driven and read, as attached hardware can."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from hyle_substrates.driver import Codes, Device, ProgramReport
from hyle_substrates.twin import TwinDriver

__all__ = ["AgeingTwin"]


class AgeingTwin:
    """A driver over a twin whose matter is as old as a clock says. Tiles share one age, counted from the clock's start.

    Args:
        twin: The matter.
        age_s: Its age when the clock is at 0, in seconds.
        speed: Seconds of age for one second of the clock, ≥ 0.
        clock: Returns seconds; the process's own by default.
        grain: Relative growth of the age at which the matter is worked out anew; 0 for every reading.
    """

    def __init__(
        self,
        twin: TwinDriver,
        *,
        age_s: float = 0.0,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        grain: float = 0.02,
    ) -> None:
        self._twin, self._age_s, self._speed, self._clock, self._grain = twin, age_s, speed, clock, grain
        self._begun = clock()
        self._reached = -math.inf
        self._grow()

    def describe(self) -> Device:
        """Return the instance's identity and age."""
        self._grow()
        return self._twin.describe()

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write one tile. Contract: `Driver.program`."""
        return self._twin.program(tile, targets)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Drive and read the matter as it is now. Contract: `Driver.apply`."""
        self._grow()
        return self._twin.apply(tiles, codes)

    def close(self) -> None:
        """Forget everything."""
        self._twin.close()

    def _grow(self) -> None:
        age_s = self._age_s + self._speed * (self._clock() - self._begun)
        if age_s > self._reached * (1.0 + self._grain) or not math.isfinite(self._reached):
            self._twin.advance(age_s)
            self._reached = max(age_s, 1e-9)
