"""What a kind of physics must say of itself, and how it is found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from hyle_errors import CallerError

from hyle_substrates.profile import Profile, ProfileError

__all__ = ["Draw", "Matter", "Substrate", "decode_physics", "load_substrate", "substrate_names"]

Float64s = np.ndarray[Any, np.dtype[np.float64]]
Draw = Callable[[str, tuple[int, ...]], Float64s]
Matter = dict[str, Float64s]
Constants = TypeVar("Constants", bound=msgspec.Struct)


class Substrate(Protocol):
    """A kind of matter that multiplies a vector by a matrix.

    Targets and weights are in units of the highest level, so that 1.0 is the largest weight. `draw(name, shape)` gives
    standard normal deviates; the same seed gives the same matter.

    One that works on any array of the Array API, and so on torch's, may say so by `any_array = True`; training is then
    faster. All others are given NumPy's.
    """

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the profile's `physics` table fits this substrate."""

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Write one tile.

        Args:
            profile: The constraint sheet.
            targets: Wanted weights, rows by columns, from -1 to 1.
            draw: Source of write errors.

        Returns:
            Everything that `age` needs, by name.
        """

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Return the effective weights `age_s` seconds after programming, rows by columns."""


@cache
def _installed() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for point in entry_points(group="hyle.substrates"):
        if point.name in found:
            raise ProfileError(f"Two packages bring a substrate {point.name!r}.", remedy="Uninstall one of them.")
        found[point.name] = point
    return found


def substrate_names() -> tuple[str, ...]:
    """Return the names of all installed substrates."""
    return tuple(sorted(_installed()))


def load_substrate(name: str) -> Substrate:
    """Find a substrate by name.

    Raises:
        ProfileError: No installed package brings it.
    """
    point = _installed().get(name)
    if point is None:
        known = ", ".join(substrate_names())
        raise ProfileError(
            f"There is no substrate {name!r}.", remedy=f"Install the package that brings it, or use one of: {known}."
        )
    substrate: Substrate = point.load()
    return substrate


def decode_physics(profile: Profile, kind: type[Constants]) -> Constants:
    """Validate a profile's `physics` table.

    Raises:
        ProfileError: A constant is missing, unknown or out of range; the message names it.
    """
    try:
        return msgspec.convert(profile.physics, kind)
    except msgspec.ValidationError as error:
        text, separator, path = str(error).partition(" - at `$.")
        field = f"physics.{path.rstrip('`')}" if separator else "physics"
        raise ProfileError(f"{profile.name}: {field}: {text}.", remedy="Correct that value in the profile.") from error


def refuse_nonfinite(values: Float64s, what: str) -> None:
    """Raise CallerError if `values` holds NaN or infinity."""
    if not np.isfinite(values).all():
        raise CallerError(f"{what} holds NaN or infinite values.", remedy="Give finite values.")
