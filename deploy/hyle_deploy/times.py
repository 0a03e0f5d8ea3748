"""Times that people give, in seconds: above 0, and no longer than a clock or a deadline can say."""

from __future__ import annotations

import argparse
import math

from hyle_errors import CallerError

__all__ = ["LONGEST_S", "check_seconds", "seconds"]

LONGEST_S = 31_536_000.0


def seconds(text: str) -> float:
    """Read an option of a command line.

    Raises:
        argparse.ArgumentTypeError: It is no time; argparse says of which option.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds, above 0 and up to {LONGEST_S:.0f} (a year)")
    return value


def check_seconds(name: str, value: float) -> float:
    """Return an argument of a call, if it is a time.

    Raises:
        CallerError: It is none.
    """
    if not 0.0 < value <= LONGEST_S:
        remedy = f"Give seconds above 0, up to {LONGEST_S:.0f} (a year)."
        raise CallerError(f"{name} is {value}, which is no time to wait.", remedy=remedy)
    return value
