"""Charge-trapping flash (SONOS): differential pairs of cell currents whose mean and spread drift over days.

Source: Agrawal et al. 2022, IEDM, 10.1109/IEDM45625.2022.10019564, as fitted in Sandia's CrossSim (SONOS device): mean
drift as a polynomial in the current, spread A(1 - exp(-I/B)), read noise of the same form. Validity: 40 nm, up to the
last measured age; between measured ages coefficients are interpolated linearly in time, after the last they are held;
currents up to 1800 nA.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from hyle_substrates.arrays import array_namespace
from hyle_substrates.bounds import NonNegative, Positive, keep
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = ["SUBSTRATE", "Flash", "FlashConstants", "Retention", "retained", "saturating"]


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of the cells at one age.

    `mean_na`: polynomial in the current in nA, lowest power first, added to it. `std_na`: A and B of the spread
    A(1 - exp(-I/B)), both in nA.
    """

    age_s: NonNegative
    mean_na: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    std_na: tuple[NonNegative, Positive]


class FlashConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Highest current, states in the order of time, and A and B of the read noise in nA."""

    i_max_na: Annotated[float, msgspec.Meta(gt=0.0, le=1800.0)]
    retention: Annotated[tuple[Retention, ...], msgspec.Meta(min_length=1)]
    read_na: tuple[NonNegative, Positive]


def saturating(current_na: Any, a: float, b: float) -> Any:
    """A(1 - exp(-I/B)), never negative."""
    xp = array_namespace(current_na)
    return xp.clip(a * (1.0 - xp.exp(-current_na / b)), 0.0, None)


def retained(current_na: Any, age_s: float, constants: FlashConstants) -> tuple[Any, Any]:
    """Mean current and its spread in nA, for cells aimed at `current_na`, `age_s` seconds after programming."""
    known = constants.retention
    where = float(np.interp(age_s, [entry.age_s for entry in known], np.arange(len(known))))
    low = min(int(where), len(known) - 1)
    share, nxt = where - low, known[min(low + 1, len(known) - 1)]
    shift = (1.0 - share) * _polynomial(current_na, known[low].mean_na) + share * _polynomial(current_na, nxt.mean_na)
    a, b = (float((1.0 - share) * p + share * q) for p, q in zip(known[low].std_na, nxt.std_na, strict=True))
    mean = array_namespace(current_na).clip(current_na + shift, 0.0, None)
    return mean, saturating(mean, a, b)


def _polynomial(g: Any, terms: tuple[float, ...]) -> Any:
    total = 0.0 * g + terms[-1]
    for term in reversed(terms[:-1]):
        total = total * g + term
    return total


class Flash:
    """A weight is the difference of two cells; the one that the sign does not need is off.

    A cell keeps its deviate while its spread grows; read noise is slow, so that it is drawn once an age.
    """

    any_array = True

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the constants are complete, in range and in the order of time."""
        ages = [entry.age_s for entry in decode_physics(profile, FlashConstants).retention]
        in_order = ages == sorted(set(ages))
        keep(profile.name, ("physics.retention", in_order, "is not in the order of time", "Sort it by age_s."))

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Write pairs; arguments as in `Substrate.program`."""
        return {"targets": targets, "plus": draw("plus", targets.shape), "minus": draw("minus", targets.shape)}

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Let cells lose charge and read them; arguments as in `Substrate.age`."""
        constants = decode_physics(profile, FlashConstants)
        xp = array_namespace(matter["targets"])

        def cell(target: Any, name: str) -> Any:
            mean, std = retained(target * constants.i_max_na, age_s, constants)
            current = xp.clip(mean + std * matter[name], 0.0, None)
            noise = saturating(current, *constants.read_na) * draw(f"read-{name}", target.shape)
            return xp.clip(current + noise, 0.0, None) / constants.i_max_na

        plus, minus = xp.clip(matter["targets"], 0.0, None), xp.clip(-matter["targets"], 0.0, None)
        out: Float64s = cell(plus, "plus") - cell(minus, "minus")
        return out


SUBSTRATE = Flash()
