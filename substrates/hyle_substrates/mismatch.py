"""How one device differs from its sheet for good: gains of its weights, row drivers and column converters.

A fixed pattern, which every write of the device meets again; write errors, drift and noise are drawn anew.
Valid for gains that do not depend on the value: geometry and read voltage of a cell, gain of a driver or converter.
Source: device-to-device against cycle-to-cycle variability, e.g. Joshi et al. 2020, Nat. Commun. 11, 2473.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_errors import CallerError

__all__ = ["Mismatch"]

Float64s = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Relative standard deviations of gains that stay with a device, 0 or more.

    Attributes:
        weight: Of every weight's cell.
        row: Of every row's driver.
        column: Of every column's converter.
    """

    weight: float = 0.0
    row: float = 0.0
    column: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that are not shares."""
        for name in ("weight", "row", "column"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise CallerError(
                    f"The mismatch of a {name} is {value}.", remedy="Give a share of 0 or more and below 1, as 0.15."
                )

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.weight or self.row or self.column)

    def gains(self, shape: tuple[int, int], draw: Callable[[str, tuple[int, ...]], Float64s]) -> Float64s:
        """The gain of every weight of a tile, rows by columns, never negative.

        Args:
            shape: Rows and columns of the whole tile, so that a gain belongs to a place whatever is written there.
            draw: Source of standard normal deviates, the same for every write of a tile.
        """
        rows, cols = shape
        gains = np.ones(shape)
        kinds = (("weight", self.weight, shape), ("row", self.row, (rows, 1)), ("column", self.column, (1, cols)))
        for name, share, size in kinds:
            if share:
                gains = gains * np.clip(1.0 + share * draw(f"mismatch {name}", size), 0.0, None)
        return gains
