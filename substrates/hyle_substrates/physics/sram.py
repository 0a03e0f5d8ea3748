"""Charge-domain SRAM: bits hold the weights exactly, capacitors sum them, and nothing drifts.

Source: Chen et al. 2021, ISLPED, 10.1109/ISLPED52811.2021.9502485 (MC2-RAM); mismatch of metal capacitors is static and
about independent from cell to cell. Validity: while powered; thermal (kT/C) and converter noise are the profile's
`noise.output_std`. The array is written in the time of a memory write, so that it is reloaded between layers.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from hyle_substrates.profile import Profile
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = ["SUBSTRATE", "Sram", "SramConstants", "thermal_std_v"]

BOLTZMANN_J_K = 1.380649e-23


class SramConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`mismatch`: relative standard deviation of a cell's capacitor."""

    mismatch: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


def thermal_std_v(capacitance_f: float, temperature_k: float = 300.0) -> float:
    """Noise voltage that a switch leaves on a capacitor: sqrt(kT/C)."""
    return float((BOLTZMANN_J_K * temperature_k / capacitance_f) ** 0.5)


class Sram:
    """A weight is a word of bits times the cell's capacitors; signed by the cell itself."""

    any_array = True

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the constants are in range."""
        decode_physics(profile, SramConstants)

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Store words on capacitors that never match perfectly; arguments as in `Substrate.program`."""
        mismatch = decode_physics(profile, SramConstants).mismatch
        return {"weights": targets * (1.0 + mismatch * draw("capacitors", targets.shape))}

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Return the weights: bits do not age. Arguments as in `Substrate.age`."""
        return matter["weights"]


SUBSTRATE = Sram()
