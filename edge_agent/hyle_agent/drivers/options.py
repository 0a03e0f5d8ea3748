"""Driver options: words from a configuration, checked and turned into numbers."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hyle_errors import CallerError

__all__ = ["Options", "needs"]


class Options:
    """Options of one driver.

    Args:
        driver: Its name, for messages.
        options: What was given.
        required: Options that must be there.
        optional: Options that may.

    Raises:
        CallerError: One is missing or unknown.
    """

    def __init__(
        self, driver: str, options: Mapping[str, str], *, required: Sequence[str], optional: Sequence[str]
    ) -> None:
        self._driver, self._options = driver, options
        known = ", ".join((*required, *optional))
        for name in options:
            if name not in {*required, *optional}:
                raise CallerError(f"The {driver} driver has no option {name!r}.", remedy=f"Its options are {known}.")
        for name in required:
            if not options.get(name):
                raise CallerError(f"The {driver} driver needs the option {name!r}.", remedy=f"Its options are {known}.")

    def number(self, name: str, default: float, low: float = 0.0, high: float = 1e9) -> float:
        """Return a number > `low` and ≤ `high`; CallerError if it is none."""
        try:
            value = float(self._options.get(name, default))
        except ValueError:
            value = math.nan
        if not low < value <= high:
            raise CallerError(
                f"The {self._driver} driver's {name} is {self._options[name]!r}.",
                remedy=f"Give a number above {low:g} and up to {high:g}.",
            )
        return value

    def integer(self, name: str, default: int, low: int = 0, high: int = 2**31) -> int:
        """Return an integer from `low` to `high`; CallerError if it is none."""
        try:
            value = int(self._options.get(name, default))
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise CallerError(
                f"The {self._driver} driver's {name} is {self._options[name]!r}.",
                remedy=f"Give an integer from {low} to {high}.",
            )
        return value


def needs(module: str, package: str) -> Any:
    """Import what only this driver uses.

    Raises:
        CallerError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise CallerError(
            f"{package} cannot be imported: {error}.", remedy="Install it with: pip install 'hyle[hardware]'"
        ) from error
