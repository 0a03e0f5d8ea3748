"""Conductive-metal-oxide/HfOx resistive memory: one device a weight, around the middle of its range.

Source: statistical model of the devices of Falcone et al. (IBM Research Europe), as IBM aihwkit carries it
(ReRamCMONoiseModel): closed-loop programming within an acceptance range, a mean that falls and a spread that grows
with the logarithm of time, 1/f read noise. Validity: room temperature, one second and later (held before), conductances
from `g_min_us` to `g_max_us`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from hyle_substrates.arrays import array_namespace
from hyle_substrates.bounds import NonNegative, Positive, keep
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = ["SUBSTRATE", "Cmo", "CmoConstants", "decay", "program_std_us", "read_std_us"]


class CmoConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of the model.

    `program_us`: write error's standard deviation, offset in µS and slope over the conductance in µS. `decay_mean_us`:
    shift of the mean for one e-fold of time. `decay_std_us`: spread at one second, and its growth for one e-fold.
    `read_us`, `t_read_s`: amplitude of the 1/f noise, and duration of a read.
    """

    g_min_us: Annotated[float, msgspec.Meta(ge=1.0, le=1e6)]
    g_max_us: Positive
    program_us: tuple[float, float]
    decay_mean_us: float
    decay_std_us: tuple[NonNegative, NonNegative]
    read_us: NonNegative
    t_read_s: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]


def program_std_us(g_us: Any, constants: CmoConstants) -> Any:
    """Standard deviation of the write error in µS at conductances `g_us`."""
    return constants.program_us[0] + constants.program_us[1] * g_us


def decay(age_s: float, constants: CmoConstants) -> tuple[float, float]:
    """Shift of the mean and standard deviation of the conductance in µS, `age_s` seconds after programming."""
    folds = math.log(max(age_s, 1.0))
    return constants.decay_mean_us * folds, constants.decay_std_us[0] + constants.decay_std_us[1] * folds


def read_std_us(g_us: Any, age_s: float, constants: CmoConstants) -> Any:
    """Standard deviation of the 1/f noise in µS that a read sees at conductances `g_us` (1 µS or more)."""
    spread = math.sqrt(math.log((max(age_s, 1.0) + constants.t_read_s) / (2.0 * constants.t_read_s)))
    return constants.read_us * spread * array_namespace(g_us).log10(g_us)


class Cmo:
    """A weight is one conductance, minus the middle of the range; pair it with `encoding = "offset"`."""

    any_array = True

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the constants are complete and the range is not empty."""
        constants = decode_physics(profile, CmoConstants)
        ends = (constants.g_min_us, constants.g_max_us)
        keep(
            profile.name,
            (
                "physics.g_min_us",
                constants.g_min_us < constants.g_max_us,
                "is not below g_max_us",
                "Give the lowest and the highest conductance.",
            ),
            (
                "physics.program_us",
                min(program_std_us(g, constants) for g in ends) >= 0.0,
                "is negative at an end of the range",
                "Give a spread of 0 or more.",
            ),
        )

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Write devices; the result is in µS. Arguments as in `Substrate.program`."""
        constants = decode_physics(profile, CmoConstants)
        middle, half = _range(constants)
        wanted = middle + half * targets
        return {
            "reached": wanted + program_std_us(wanted, constants) * draw("program", targets.shape),
            "decay": draw("decay", targets.shape),
        }

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Let devices decay and read them; arguments as in `Substrate.age`."""
        constants = decode_physics(profile, CmoConstants)
        xp = array_namespace(matter["reached"])
        middle, half = _range(constants)
        mean, std = decay(age_s, constants) if age_s > 0.0 else (0.0, 0.0)
        decayed = matter["reached"] + mean + std * matter["decay"]
        noise = read_std_us(xp.clip(decayed, 1.0, None), age_s, constants) * draw("read", decayed.shape)
        out: Float64s = (xp.clip(decayed + noise, constants.g_min_us, constants.g_max_us) - middle) / half
        return out


def _range(constants: CmoConstants) -> tuple[float, float]:
    return (constants.g_max_us + constants.g_min_us) / 2.0, (constants.g_max_us - constants.g_min_us) / 2.0


SUBSTRATE = Cmo()
