"""Microring weight banks: one ring a wavelength, whose detuning from it sets the weight.

A ring drops the share L(x) = 1/(1 + x²) of light that is x half-widths off its resonance; balanced detectors on the
drop and the through port see w = T_drop - T_through = 2L - 1 of a channel. Every ring of a bank also takes from its
neighbours' channels: w = 1 - 2 ∏(1 - L), which `tune` inverts. Heaters warm their neighbours, which is inverted too.

Sources: Tait et al. 2017, Sci. Rep. 7, 7430 (weight banks); Zhang et al. 2021, "Microring weight banks control beyond
8.5-bits accuracy"; García Echeverría et al. 2024, arXiv 2409.06604 (tracking of temperature). Validity: one free
spectral range, Lorentzian rings, no nonlinearity from power in the ring.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from hyle_substrates.bounds import NonNegative, Positive, keep
from hyle_substrates.profile import Profile
from hyle_substrates.substrate import Draw, Float64s, Matter, decode_physics

__all__ = ["SUBSTRATE", "Mrr", "MrrConstants", "bank_weights", "lorentzian", "thermal_matrix", "tune"]

ROUNDS = 60


class MrrConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of a bank; lengths of waves in picometres.

    `linewidth_pm`: full width at half maximum. `spacing_pm`: between channels. `thermal_pm_k`: shift of a resonance for
    one kelvin. `residual_k`: standard deviation of the temperature that tracking leaves, common to a bank.
    `thermal_crosstalk`: share of a heater's shift that the next ring sees, falling with distance. `weight_bits`:
    accuracy of a weight over the range from -1 to 1, its standard deviation being 2/2^bits. `top`: weight that the
    highest target stands for.
    """

    linewidth_pm: Positive
    spacing_pm: Positive
    thermal_pm_k: Positive
    residual_k: NonNegative
    thermal_crosstalk: Annotated[float, msgspec.Meta(ge=0.0, le=0.3)]
    weight_bits: Annotated[float, msgspec.Meta(gt=0.0, le=64.0)]
    top: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]


def lorentzian(x: Float64s) -> Float64s:
    """Share of light dropped x half-widths off resonance."""
    out: Float64s = 1.0 / (1.0 + x * x)
    return out


def bank_weights(detuning: Float64s, spacing: float) -> Float64s:
    """Weights that banks give their channels.

    Args:
        detuning: Of each ring from its own channel, in half-widths, rings by banks; ring i belongs to channel i.
        spacing: Between channels, in half-widths.

    Returns:
        Weights from -1 to 1, channels by banks.
    """
    out: Float64s = 1.0 - 2.0 * np.prod(1.0 - _dropped(detuning, spacing), axis=1)
    return out


def _dropped(detuning: Float64s, spacing: float) -> Float64s:
    """Shares dropped: channels by rings by banks."""
    place = np.arange(len(detuning)) * spacing
    return lorentzian(place[:, None, None] - place[None, :, None] - detuning[None, :, :])


def thermal_matrix(rings: int, crosstalk: float) -> Float64s:
    """Shift of each ring for a shift asked of another, crosstalk to the power of their distance."""
    place = np.arange(rings)
    distance = np.abs(place[:, None] - place[None, :])
    out: Float64s = np.where(distance == 0, 1.0, float(crosstalk) ** np.maximum(distance, 1))
    return out


def tune(wanted: Float64s, spacing: float) -> Float64s:
    """Find the detunings that give channels the wanted weights, all rings' mutual crosstalk included.

    Args:
        wanted: Weights, channels by banks, from -1 to 1.
        spacing: Between channels, in half-widths.

    Returns:
        Detunings in half-widths, 0 to half a spacing; the nearest where a weight cannot be reached.
    """
    detuning = np.full(wanted.shape, 1.0)
    others = np.eye(len(wanted), dtype=bool)[:, :, None]
    for _ in range(ROUNDS):
        rest = np.prod(np.where(others, 1.0, 1.0 - _dropped(detuning, spacing)), axis=1)
        share = np.clip(1.0 - (1.0 - wanted) / (2.0 * np.maximum(rest, 1e-12)), 0.0, 1.0)
        reach = np.sqrt(1.0 / np.maximum(share, 1e-12) - 1.0)
        detuning = np.minimum(reach, spacing / 2.0)
    return detuning


class Mrr:
    """Rows are channels, columns are banks; a target of 1 is the weight `top`."""

    def check(self, profile: Profile) -> None:
        """Raise ProfileError unless the constants are in range and channels do not touch."""
        constants = decode_physics(profile, MrrConstants)
        apart = constants.spacing_pm >= constants.linewidth_pm
        keep(profile.name, ("physics.spacing_pm", apart, "is below linewidth_pm", "Give channels more room."))

    def program(self, profile: Profile, targets: Float64s, draw: Draw) -> Matter:
        """Tune all rings; arguments as in `Substrate.program`."""
        constants = decode_physics(profile, MrrConstants)
        spacing = 2.0 * constants.spacing_pm / constants.linewidth_pm
        std = 2.0 / 2.0**constants.weight_bits
        missed = constants.top * targets + std * draw("weights", targets.shape)
        detuning = tune(np.clip(missed, -1.0, 1.0), spacing)
        thermal = thermal_matrix(len(targets), constants.thermal_crosstalk)
        asked: Float64s = np.asarray(np.linalg.solve(thermal, detuning), dtype=np.float64)
        return {"asked": asked}

    def age(self, profile: Profile, matter: Matter, age_s: float, draw: Draw) -> Float64s:
        """Send light through at the temperature that tracking leaves now; arguments as in `Substrate.age`."""
        constants = decode_physics(profile, MrrConstants)
        half_width = constants.linewidth_pm / 2.0
        thermal = thermal_matrix(len(matter["asked"]), constants.thermal_crosstalk)
        warmth = constants.residual_k * draw("residual", (1, matter["asked"].shape[1]))
        shift = warmth * constants.thermal_pm_k / half_width
        weights = bank_weights(thermal @ matter["asked"] + shift, constants.spacing_pm / half_width)
        out: Float64s = weights / constants.top
        return out


SUBSTRATE = Mrr()
