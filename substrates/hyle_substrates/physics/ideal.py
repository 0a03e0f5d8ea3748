"""Perfect matter: holds every weight exactly and never changes; the reference for all other substrates."""

from __future__ import annotations

import msgspec

from hyle_substrates.profile import Profile
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = ["SUBSTRATE", "Ideal"]


class NoConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Perfect matter has no constants."""


class Ideal:
    """A matrix product without error, at any age. Valid nowhere in nature."""

    any_array = True

    def check(self, profile: Profile) -> None:
        """Raise ProfileError if the profile gives constants."""
        decode_physics(profile, NoConstants)

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Keep the targets; arguments as in `Substrate.program`."""
        return {"weights": targets}

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Return the targets; arguments as in `Substrate.age`."""
        return matter["weights"]


SUBSTRATE = Ideal()
