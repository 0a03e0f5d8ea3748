"""Filamentary resistive memory: differential pairs that relax in the days after a write, then stay.

Source: Wan et al. 2022, Nature 608, 504 (NeuRRAM), whose spread of conductances one second, one day and two days after
programming IBM aihwkit fits with polynomials. Validity: room temperature, up to the last measured age; between the
measured ages the spread is interpolated in the logarithm of time, and outside of them it is held.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from hyle_substrates.arrays import array_namespace
from hyle_substrates.bounds import Positive, keep
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = ["SUBSTRATE", "Relaxation", "Rram", "RramConstants", "relaxed_std"]


MOST_SPREADS = 1e3


class Relaxation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Spread of the conductances at one age: a polynomial in g over `g_max_us`, lowest power first, in µS."""

    age_s: Positive
    std_us: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]


class RramConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Highest conductance and the measured spreads, youngest first."""

    g_max_us: Positive
    relaxation: Annotated[tuple[Relaxation, ...], msgspec.Meta(min_length=1)]


def relaxed_std(target: Any, age_s: float, constants: RramConstants) -> Any:
    """Standard deviation of the conductance `age_s` after programming.

    Args:
        target: Wanted conductances over `g_max_us`, any shape, 0 to 1.
        age_s: Seconds since programming.
        constants: The model's constants.

    Returns:
        Standard deviations over `g_max_us`, never negative, the shape of `target`.
    """
    known = constants.relaxation
    where = float(np.interp(np.log(max(age_s, 1e-9)), [np.log(k.age_s) for k in known], np.arange(len(known))))
    low = min(int(where), len(known) - 1)
    share = where - low
    below = _polynomial(target, known[low].std_us)
    above = _polynomial(target, known[min(low + 1, len(known) - 1)].std_us)
    return array_namespace(target).clip((1.0 - share) * below + share * above, 0.0, None) / constants.g_max_us


def _polynomial(g: Any, terms: tuple[float, ...]) -> Any:
    total = 0.0 * g + terms[-1]
    for term in reversed(terms[:-1]):
        total = total * g + term
    return total


class Rram:
    """A weight is the difference of two devices; the one that the sign does not need is aimed at zero."""

    any_array = True

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the constants are complete, in range and in the order of time."""
        constants = decode_physics(profile, RramConstants)
        ages = [entry.age_s for entry in constants.relaxation]
        sizes = [max(map(abs, entry.std_us)) / constants.g_max_us for entry in constants.relaxation]
        keep(
            profile.name,
            ("physics.relaxation", ages == sorted(set(ages)), "is not in the order of time", "Sort it by age_s."),
            (
                "physics.relaxation.std_us",
                max(sizes) <= MOST_SPREADS,
                "is many times g_max_us",
                "Give both in microsiemens.",
            ),
        )

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Write pairs; a device keeps its deviate while its spread grows. Arguments as in `Substrate.program`."""
        return {"targets": targets, "plus": draw("plus", targets.shape), "minus": draw("minus", targets.shape)}

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Let pairs relax; arguments as in `Substrate.age`."""
        constants = decode_physics(profile, RramConstants)
        xp = array_namespace(matter["targets"])
        plus, minus = xp.clip(matter["targets"], 0.0, None), xp.clip(-matter["targets"], 0.0, None)
        out: Float64s = _device(plus, matter["plus"], age_s, constants) - _device(
            minus, matter["minus"], age_s, constants
        )
        return out


def _device(target: Any, xi: Any, age_s: float, constants: RramConstants) -> Any:
    return array_namespace(target).clip(target + relaxed_std(target, age_s, constants) * xi, 0.0, None)


SUBSTRATE = Rram()
