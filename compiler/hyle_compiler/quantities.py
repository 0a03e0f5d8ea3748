"""Quantities as people read them."""

from __future__ import annotations

import math

__all__ = ["SI", "si"]

SI = (
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
    (1e-12, "p"),
    (1e-15, "f"),
)


def si(value: float, unit: str) -> str:
    """A quantity with three digits and the prefix that suits it."""
    if value == 0.0 or not math.isfinite(value):
        return f"{value:g}\N{NO-BREAK SPACE}{unit}"
    size, prefix = next((pair for pair in SI if abs(value) >= pair[0] * 0.9995), SI[-1])
    return f"{value / size:.3g}\N{NO-BREAK SPACE}{prefix}{unit}"
