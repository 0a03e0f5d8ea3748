"""Durations as people write them: `25s`, `10min`, `1h`, `1d`, `1mo`, `1y`."""

from __future__ import annotations

import re

from hyle_errors import CallerError

__all__ = ["format_duration", "parse_duration", "parse_durations"]

UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "mo": 2592000.0, "y": 31536000.0}
PATTERN = re.compile(r"^(\d+(?:\.\d+)?)(s|min|h|d|mo|y)$")


def parse_duration(text: str) -> float:
    """Return seconds; CallerError unless `text` is a number and one of the units s, min, h, d, mo (30 d), y (365 d)."""
    match = PATTERN.match(text.strip())
    if match is None:
        raise CallerError(f"{text!r} is no duration.", remedy="Write a number and a unit: 25s, 10min, 1h, 1d, 1mo, 1y.")
    return float(match[1]) * UNITS_S[match[2]]


def parse_durations(text: str) -> tuple[float, ...]:
    """Read durations separated by commas, in seconds."""
    return tuple(parse_duration(part) for part in text.split(","))


def format_duration(seconds: float) -> str:
    """Write seconds in the largest unit that divides them."""
    for unit, size in reversed(UNITS_S.items()):
        if seconds >= size and (seconds / size).is_integer():
            return f"{int(seconds / size)}{unit}"
    return f"{seconds:g}s"
