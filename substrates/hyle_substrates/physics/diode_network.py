"""A network of resistors and diodes that settles: its answer is where Kirchhoff's currents balance.

Inputs x drive ideal sources at ±`swing_v`·x, and a pair of sources at ±`swing_v` is the bias. Conductances join every
source with every hidden node, and every hidden node with every output node; these are the parameters, on a logarithmic
scale. Each hidden node carries a diode: of even nodes from ground to the node, so that it cannot fall far below zero,
of odd ones from the node to ground. Readings are the voltages of the output nodes over `swing_v`.

A diode's current is i_sat·(exp(v/(n·v_t)) - 1) + g_shunt·v. The voltages solve the nodal equations by Newton's method
with the diodes' step limited; the total of all co-contents is convex, so that there is one solution.

Sources: Kendall et al. 2020, arXiv 2006.01981 (this network, for equilibrium propagation); Millar 1951, Phil. Mag. 42,
1150 (content and co-content); Shockley 1949, Bell Syst. Tech. J. 28, 435 (diode). Validity: static, one temperature,
ideal sources; held to ngspice's operating point.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from hyle_substrates.bounds import Positive, keep
from hyle_substrates.box_profile import BoxProfile, constants_of
from hyle_substrates.draws import Float64s
from hyle_substrates.driver import DeviceError
from hyle_substrates.substrate import Draw

__all__ = ["BLACK_BOX", "DiodeConstants", "DiodeNetwork", "conductances"]

STEPS = 200
TOLERANCE_V = 1e-10


class DiodeConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants: conductances in microsiemens, saturation current in amperes, `emission_v` = n·v_t in volts."""

    hidden: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    swing_v: Positive
    g_min_us: Positive
    g_max_us: Positive
    i_sat_a: Positive
    emission_v: Positive
    g_shunt_s: Positive = 1e-12
    g_std: Annotated[float, msgspec.Meta(ge=0.0, le=0.5)] = 0.0


def conductances(profile: BoxProfile, device: dict[str, Float64s], parameters: Float64s) -> tuple[Float64s, Float64s]:
    """Conductances in siemens: samples by sources by hidden nodes, and samples by hidden by output nodes."""
    c = constants_of(profile, DiodeConstants)
    ratio = np.log(c.g_max_us / c.g_min_us)
    all_of = 1e-6 * c.g_min_us * np.exp(ratio * (parameters + 1.0) / 2.0) * device["mismatch"]
    first = 2 * (profile.inputs + 1) * c.hidden
    return (
        all_of[:, :first].reshape(len(parameters), -1, c.hidden),
        all_of[:, first:].reshape(len(parameters), c.hidden, -1),
    )


def _limited(step: Float64s, voltage: Float64s, sign: Float64s, c: DiodeConstants) -> Float64s:
    """Keep a Newton step from leaving the part of a diode's curve that its slope describes."""
    forward = sign * voltage
    knee = c.emission_v * np.log(c.emission_v / (np.sqrt(2.0) * c.i_sat_a))
    wanted = forward + sign * step
    limited = np.where(
        (wanted > knee) & (np.abs(wanted - forward) > 2.0 * c.emission_v),
        np.where(
            forward > 0.0,
            forward + c.emission_v * np.log1p(np.maximum((wanted - forward) / c.emission_v, -0.9)),
            c.emission_v * np.log(np.maximum(wanted, c.emission_v) / c.emission_v),
        ),
        wanted,
    )
    out: Float64s = sign * (limited - forward)
    return out


class DiodeNetwork:
    """The physics of this page."""

    def parameters(self, profile: BoxProfile) -> int:
        """One for each resistor."""
        c = constants_of(profile, DiodeConstants)
        in_order = c.g_min_us < c.g_max_us
        remedy = "Give the lowest and the highest conductance."
        keep(profile.name, ("physics.g_min_us", in_order, "is not below g_max_us", remedy))
        return c.hidden * (2 * (profile.inputs + 1) + profile.outputs)

    def made(self, profile: BoxProfile, draw: Draw) -> dict[str, Float64s]:
        """Resistors that miss their value by `g_std`, log-normally."""
        c = constants_of(profile, DiodeConstants)
        return {"mismatch": np.exp(c.g_std * draw("mismatch", (self.parameters(profile),)))}

    def respond(
        self, profile: BoxProfile, device: dict[str, Float64s], parameters: Float64s, inputs: Float64s
    ) -> Float64s:
        """Let it settle; contract: `BoxPhysics.respond`. DeviceError if Newton's method does not converge."""
        c = constants_of(profile, DiodeConstants)
        below, above = conductances(profile, device, parameters)
        driven = c.swing_v * np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
        sources = np.concatenate([driven, -driven], axis=1)
        total = above.sum(axis=1)
        # The output nodes carry no diode: they are eliminated, v_out = G_above^T v / total.
        coupling = np.einsum("bho,bko->bhk", above / total[:, None, :], above)
        diagonal = below.sum(axis=1) + above.sum(axis=2)
        matrix = diagonal[:, :, None] * np.eye(c.hidden) - coupling
        current = np.einsum("bs,bsh->bh", sources, below)
        v = self._settled(matrix, current, c)
        out: Float64s = np.einsum("bh,bho->bo", v, above) / total / c.swing_v
        return out

    def _settled(self, matrix: Float64s, current: Float64s, c: DiodeConstants) -> Float64s:
        sign = np.where(np.arange(c.hidden) % 2 == 0, -1.0, 1.0)
        v = np.zeros_like(current)
        for _ in range(STEPS):
            grown = np.exp(np.minimum(sign * v / c.emission_v, 60.0))
            wrong = np.einsum("bhk,bk->bh", matrix, v) - current + sign * c.i_sat_a * (grown - 1.0) + c.g_shunt_s * v
            slope = c.i_sat_a / c.emission_v * grown + c.g_shunt_s
            step = np.linalg.solve(matrix + slope[:, :, None] * np.eye(c.hidden), -wrong[..., None])[..., 0]
            limited = _limited(step, v, sign, c)
            v = v + limited
            if float(np.abs(step).max(initial=0.0)) <= TOLERANCE_V:
                return v
        raise DeviceError("The diode network does not settle.", remedy="Use conductances within the sheet's range.")


BLACK_BOX = DiodeNetwork()
