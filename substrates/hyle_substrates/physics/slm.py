"""Free-space incoherent optics: a modulator's pixels are the weights, a camera counts the photons.

Source: Wang et al. 2022, Nat. Commun. 13, 123, 10.1038/s41467-021-27774-8. Light is not negative: a weight is the
difference of two pixels on two regions of the modulator, and inputs with a sign are shown one part after the other
(`dac.nonnegative`). Shot noise is the profile's `noise.photons`. Validity: incoherent light, a linear camera, at least
about 20 photons a column (below, photon counts are not Gaussian).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from hyle_substrates.arrays import array_namespace
from hyle_substrates.profile import Profile, ProfileError
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = ["SUBSTRATE", "Slm", "SlmConstants"]


class SlmConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of the modulator.

    `contrast`: brightest over darkest transmission. `pixel_std`: relative spread of the pixels' transmission and of
    the illumination, static. `drift_std_per_day`: relative change of that in a day, its square growing with time.
    """

    contrast: Annotated[float, msgspec.Meta(gt=1.0, le=1e12)]
    pixel_std: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
    drift_std_per_day: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Slm:
    """Two regions of one modulator; a target of 0 leaves the light of a dark pixel."""

    any_array = True

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the constants are in range and inputs are declared as not negative."""
        decode_physics(profile, SlmConstants)
        if not profile.dac.nonnegative:
            raise ProfileError(
                f"{profile.name}: dac.nonnegative is false, but light is not negative.", remedy="Set it to true."
            )

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Show both regions; arguments as in `Substrate.program`."""
        constants = decode_physics(profile, SlmConstants)
        xp = array_namespace(targets)
        dark = 1.0 / constants.contrast

        def region(wanted: Float64s, name: str) -> Float64s:
            spread = 1.0 + constants.pixel_std * draw(name, wanted.shape)
            shown: Float64s = (dark + (1.0 - dark) * wanted) * xp.clip(spread, 0.0, None)
            return shown

        return {
            "plus": region(xp.clip(targets, 0.0, None), "plus"),
            "minus": region(xp.clip(-targets, 0.0, None), "minus"),
            "drift+": draw("drift+", targets.shape),
            "drift-": draw("drift-", targets.shape),
        }

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Let alignment and illumination change; arguments as in `Substrate.age`."""
        step = decode_physics(profile, SlmConstants).drift_std_per_day * (age_s / 86400.0) ** 0.5
        plus = matter["plus"] * (1.0 + step * matter["drift+"])
        out: Float64s = plus - matter["minus"] * (1.0 + step * matter["drift-"])
        return out


SUBSTRATE = Slm()
