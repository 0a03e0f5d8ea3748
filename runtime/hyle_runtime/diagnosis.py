"""What ADC codes say of a device: columns that never move, and columns at the end of the converter's range.

Both are told from what the programmed targets would give. A column counts as stuck if its codes are all the same while
exact answers move by `MOVES` codes or more: a healthy one with a fifth of its gain would still cross a code's border.
It counts as saturated if it is at the end of its range for half the vectors or more, where exact answers would be there
for less than a quarter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hyle_substrates.driver import Codes, Device, Driver, ProgramReport
from hyle_substrates.profile import Profile

__all__ = ["Witness", "exact_codes", "fault_of"]

Array = np.ndarray[Any, Any]
Seen = Mapping[tuple[int, ...], tuple[Array, Array]]

MOVES = 3.0
FEWEST = 8
KEPT = 256


class Witness:
    """A driver that keeps some of what goes through it while it is told to.

    Args:
        driver: The device.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.seen: dict[tuple[int, ...], tuple[Array, Array]] | None = None

    def describe(self) -> Device:
        """Contract: `Driver.describe`."""
        return self._driver.describe()

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Contract: `Driver.program`."""
        return self._driver.program(tile, targets)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Contract: `Driver.apply`."""
        answers = self._driver.apply(tiles, codes)
        if self.seen is not None:
            picks = np.linspace(0, len(codes) - 1, min(KEPT, len(codes))).astype(np.int64)
            asked, answered = codes[picks], answers[picks]
            before = self.seen.get(tuple(tiles))
            if before is not None:
                asked, answered = np.concatenate([before[0], asked]), np.concatenate([before[1], answered])
            self.seen[tuple(tiles)] = asked, answered
        return answers

    def close(self) -> None:
        """Contract: `Driver.close`."""
        self._driver.close()


def fault_of(seen: Seen, exact: Callable[[tuple[int, ...], Array], Array], levels: int) -> str:
    """Name what is wrong with a device.

    Args:
        seen: For the tiles that were read together: DAC codes, vectors by rows, and ADC codes, vectors by columns.
        exact: Returns the ADC codes, vectors by columns, that the targets of some tiles would give.
        levels: Highest ADC code, 0 for a continuous converter.

    Returns:
        `saturated`, `stuck`, or "" for nothing.
    """
    stuck = False
    for tiles, (asked, answered) in seen.items():
        if len(asked) < FEWEST or not np.isfinite(answered).all():
            continue
        still = answered.min(axis=0) == answered.max(axis=0)
        at_end = _share_at_end(answered, levels) >= 0.5
        if not (still | at_end).any():
            continue
        wanted = exact(tiles, asked)
        if (at_end & (_share_at_end(wanted, levels) < 0.25)).any():
            return "saturated"
        reached = np.clip(wanted, -levels, levels) if levels else wanted
        stuck = stuck or bool((still & ~at_end & (reached.std(axis=0) >= MOVES)).any())
    return "stuck" if stuck else ""


def exact_codes(profile: Profile, targets: Array, asked: Array) -> Array:
    """Return the ADC codes, vectors by columns and not rounded, of perfect matter.

    Args:
        profile: The device's.
        targets: Levels, rows by columns.
        asked: DAC codes, vectors by rows.
    """
    unit = profile.read_unit
    driven = asked.astype(np.float64)
    total: Array = driven @ targets.astype(np.float64) * unit
    return total + profile.reference * driven.sum(axis=1, keepdims=True) if profile.reference else total


def _share_at_end(codes: Array, levels: int) -> Array:
    if not levels:
        return np.zeros(codes.shape[1])
    share: Array = (np.abs(codes) >= levels - 0.5).mean(axis=0)
    return share
