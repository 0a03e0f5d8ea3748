"""Phase-change memory: differential pairs with write errors, drift, and 1/f noise that grows with time.

Sources: Nandakumar et al. 2019, ICECS, 10.1109/ICECS46596.2019.8964852 (statistical model of a million devices);
Joshi et al. 2020, Nat. Commun. 11, 2473; Le Gallo et al. 2023, Nat. Electron. 6, 680 (HERMES). Validity: room
temperature, reads at constant low voltage, conductance up to `g_max_us`, times from seconds to about a year; wires
without resistance.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from hyle_substrates.arrays import array_namespace
from hyle_substrates.bounds import NonNegative, Positive, Rule, keep, polynomial_rules
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = [
    "SUBSTRATE",
    "LogThenPolynomial",
    "Pcm",
    "PcmConstants",
    "PowerLaw",
    "accumulated",
    "drifted",
    "programmed",
    "read_amplitude",
]

SMALLEST = 1e-7


class LogThenPolynomial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="log", tag_field="law"):
    """clip(slope·ln g + intercept, low, high) below `threshold`, above it a polynomial in g (lowest power first)."""

    slope: float
    intercept: float
    low: NonNegative
    high: NonNegative
    threshold: Positive = math.inf
    polynomial: tuple[float, ...] = ()

    def rules(self, field: str) -> list[Rule]:
        """What its constants, those of the field `field`, must be to each other."""
        split = math.isfinite(self.threshold)
        return [
            (f"{field}.low", self.low <= self.high, "is above high", "Give the range from low to high."),
            (
                f"{field}.polynomial",
                split == bool(self.polynomial),
                "is missing above the threshold" if split else "has no threshold from which on it counts",
                "Give both threshold and polynomial, or neither.",
            ),
            (f"{field}.threshold", not split or self.threshold <= 1.0, "is above 1", "Give a share of g_max_us."),
            *([polynomial_rules(f"{field}.polynomial", self.polynomial, self.threshold)] if self.polynomial else []),
        ]


class PowerLaw(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="power", tag_field="law"):
    """min(scale / max(g^exponent, floor), cap)."""

    scale: Positive
    exponent: Positive
    cap: Positive
    floor: Positive = 1e-3

    def rules(self, field: str) -> list[Rule]:
        """None but its bounds."""
        return []


class PcmConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of the model; g is a conductance over `g_max_us`.

    `program_us`: polynomial of the write error's standard deviation in µS. `drift_mean`, `drift_std`: of the drift
    exponent. `read`: 1/f amplitude. `t0_s`: age at the first read. `t_read_s`: duration of a read.
    """

    g_max_us: Positive
    t0_s: Positive
    t_read_s: Positive
    program_us: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    drift_mean: LogThenPolynomial | PowerLaw
    drift_std: LogThenPolynomial | PowerLaw
    read: LogThenPolynomial | PowerLaw
    pair: Literal["single"] = "single"


def _polynomial(g: Any, terms: tuple[float, ...]) -> Any:
    total = 0.0 * g + terms[-1]
    for term in reversed(terms[:-1]):
        total = total * g + term
    return total


def _law(law: LogThenPolynomial | PowerLaw, g: Any) -> Any:
    """Value of a law at relative conductances `g` (any shape, > 0)."""
    xp = array_namespace(g)
    if isinstance(law, PowerLaw):
        return xp.clip(law.scale / xp.clip(g**law.exponent, law.floor, None), None, law.cap)
    low = xp.clip(law.slope * xp.log(g) + law.intercept, law.low, law.high)
    return xp.where(g < law.threshold, low, _polynomial(g, law.polynomial)) if law.polynomial else low


def programmed(target: Any, xi: Any, constants: PcmConstants) -> Any:
    """Conductance after a write.

    Args:
        target: Wanted conductances over `g_max_us`, any shape, 0 to 1.
        xi: Standard normal deviates, the shape of `target`.
        constants: The model's constants.

    Returns:
        Reached conductances over `g_max_us`, never negative.
    """
    sigma = _polynomial(target, constants.program_us) / constants.g_max_us
    return array_namespace(target).clip(target + sigma * xi, 0.0, None)


def drift_exponent(target: Any, xi: Any, constants: PcmConstants) -> Any:
    """Drift exponent of a device, from its target conductance (over `g_max_us`) and a standard normal deviate."""
    xp = array_namespace(target)
    g = xp.clip(target, SMALLEST, None)
    return xp.abs(_law(constants.drift_mean, g) + _law(constants.drift_std, g) * xi)


def drifted(g: Any, nu: Any, age_s: float, constants: PcmConstants) -> Any:
    """Conductance `age_s` after programming: g·((t + t0)/t0)^-nu."""
    return g * array_namespace(g).exp(-math.log((age_s + constants.t0_s) / constants.t0_s) * nu)


def read_amplitude(g: Any, constants: PcmConstants) -> Any:
    """Amplitude of the 1/f noise, relative, of devices programmed to `g` (over `g_max_us`)."""
    return _law(constants.read, array_namespace(g).clip(g, SMALLEST, None))


def accumulated(age_s: float, constants: PcmConstants) -> float:
    """How the 1/f noise has grown `age_s` after programming: its standard deviation over its amplitude."""
    t = age_s + constants.t0_s
    return math.sqrt(math.log((t + constants.t_read_s) / (2.0 * constants.t_read_s)))


class Pcm:
    """A weight is the difference of two devices; the one that the sign does not need is aimed at zero."""

    any_array = True

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the profile's constants are complete and in range."""
        constants = decode_physics(profile, PcmConstants)
        laws = ("drift_mean", "drift_std", "read")
        keep(
            profile.name,
            (
                "physics.t_read_s",
                constants.t_read_s <= constants.t0_s,
                "is above t0_s, the age at which a device is first read",
                "Give a read that is over by then.",
            ),
            polynomial_rules("physics.program_us", constants.program_us),
            *(rule for law in laws for rule in getattr(constants, law).rules(f"physics.{law}")),
        )

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Write pairs; arguments as in `Substrate.program`.

        The reached difference is carried by one device of the pair, with the exponent of that device's target; the
        largest reached weight of the tile defines the conductance range that drift and read noise see.
        """
        xp = array_namespace(targets)
        constants = decode_physics(profile, PcmConstants)
        plus, minus = xp.clip(targets, 0.0, None), xp.clip(-targets, 0.0, None)
        shape = targets.shape
        reached = programmed(plus, draw("program+", shape), constants) - programmed(
            minus, draw("program-", shape), constants
        )
        active = xp.where(reached >= 0.0, plus, minus)
        magnitude = xp.abs(reached)
        largest = max(float(xp.max(magnitude)), SMALLEST) if magnitude.size else 1.0
        return {
            "reached": reached,
            "exponent": drift_exponent(active, draw("drift", shape), constants),
            "amplitude": read_amplitude(magnitude / largest, constants),
        }

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Let pairs drift and read them; arguments as in `Substrate.age`."""
        constants = decode_physics(profile, PcmConstants)
        reached = matter["reached"]
        xp = array_namespace(reached)
        relative = 1.0 + matter["amplitude"] * accumulated(age_s, constants) * draw("read", reached.shape)
        out: Float64s = drifted(reached, matter["exponent"], age_s, constants) * xp.clip(relative, 0.0, None)
        return out


SUBSTRATE = Pcm()
