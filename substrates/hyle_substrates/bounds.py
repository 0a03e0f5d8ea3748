"""What constants of a sheet may be: types with bounds, and rules between several of them, each with its words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from hyle_errors import CallerError

__all__ = ["NonNegative", "Positive", "ProfileError", "Rule", "finite", "keep", "polynomial_rules"]

Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e12)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
# The constant's name, whether the rule is kept, what is wrong where it is not, and what to do.
Rule = tuple[str, bool, str, str]
STEPS = 100


class ProfileError(CallerError):
    """A profile that does not exist, or whose values are wrong."""


def finite(origin: str, document: Any, path: str = "") -> None:
    """Refuse numbers that are NaN or infinite, which TOML can write, anywhere in a sheet.

    Raises:
        ProfileError: There is one; names it.
    """
    if isinstance(document, float) and not math.isfinite(document):
        raise ProfileError(f"{origin}: {path} is {document}.", remedy="Give a finite number.")
    if isinstance(document, Mapping):
        for key, value in document.items():
            finite(origin, value, f"{path}.{key}" if path else str(key))
    if isinstance(document, list | tuple):
        for index, value in enumerate(document):
            finite(origin, value, f"{path}[{index}]")


def keep(name: str, *rules: Rule) -> None:
    """Hold a sheet to rules; ProfileError names the first constant that breaks one, and says what to do."""
    for field, kept, wrong, remedy in rules:
        if not kept:
            raise ProfileError(f"{name}: {field} {wrong}.", remedy=remedy)


def polynomial_rules(field: str, terms: tuple[float, ...], low: float = 0.0) -> Rule:
    """A spread that is a polynomial in a relative conductance is not negative between `low` and 1."""
    points = [low + (1.0 - low) * step / STEPS for step in range(STEPS + 1)]
    least = min(sum(term * g**power for power, term in enumerate(terms)) for g in points)
    return field, least >= 0.0, f"is negative ({least:.3g}) for some conductance", "Give a spread of 0 or more."
