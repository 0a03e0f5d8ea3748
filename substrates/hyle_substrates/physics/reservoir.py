"""A delay line with one nonlinear element: a reservoir of virtual nodes.

In each round trip n of the delay, node k has the state

    x_k(n) = sin(alpha · x_{k-1}(n-1) + beta · m_k · u(n) + phi),    x_0(n-1) = x_N(n-2),

with the mask m_k of ±1 and the input u(n) held for one round trip; the shift by one node is the desynchronisation of
input period and delay that couples neighbours. An input of the box is one u(n), oldest first; readings are the states
of the last round trip. Parameters: alpha, beta and phi, over the ranges of the sheet. Every sample begins at x = 0.

Sources: Appeltant et al. 2011, Nat. Commun. 2, 468 (one node with delay); Paquot et al. 2012, Sci. Rep. 2, 287
(optoelectronic, the equation above; sine of a Mach-Zehnder modulator); Larger et al. 2012, Opt. Express 20, 3241.
Validity: instantaneous nonlinearity (modulator much faster than a node), no filter in the loop.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from hyle_substrates.bounds import keep
from hyle_substrates.box_profile import BoxProfile, constants_of, spread
from hyle_substrates.draws import Float64s
from hyle_substrates.substrate import Draw

__all__ = ["BLACK_BOX", "DelayReservoir", "DelayReservoirConstants"]

Span = tuple[float, float]


class DelayReservoirConstants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ranges of feedback gain `alpha`, input gain `beta` and bias `phi_rad`, and the spread of the mask's levels."""

    alpha: Span
    beta: Span
    phi_rad: Span
    mask_std: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0


class DelayReservoir:
    """The physics of this page."""

    def parameters(self, profile: BoxProfile) -> int:
        """Feedback gain, input gain and bias."""
        c = constants_of(profile, DelayReservoirConstants)
        spans = {"alpha": c.alpha, "beta": c.beta, "phi_rad": c.phi_rad}
        rules = [
            (f"physics.{n}", low <= high, "is an empty range", "Write [low, high].") for n, (low, high) in spans.items()
        ]
        keep(profile.name, *rules)
        return 3

    def made(self, profile: BoxProfile, draw: Draw) -> dict[str, Float64s]:
        """A mask of its own, with levels that miss ±1 by `mask_std`."""
        c = constants_of(profile, DelayReservoirConstants)
        sign = np.where(draw("mask", (profile.outputs,)) < 0.0, -1.0, 1.0)
        return {"mask": sign * (1.0 + c.mask_std * draw("level", (profile.outputs,)))}

    def respond(
        self, profile: BoxProfile, device: dict[str, Float64s], parameters: Float64s, inputs: Float64s
    ) -> Float64s:
        """Run through the window of inputs; contract: `BoxPhysics.respond`."""
        c = constants_of(profile, DelayReservoirConstants)
        ranges = (c.alpha, c.beta, c.phi_rad)
        alpha, beta, phi = (spread(parameters[:, i : i + 1], *span) for i, span in enumerate(ranges))
        now = np.zeros((len(inputs), profile.outputs))
        wrapped = np.zeros((len(inputs), 1))
        for u in inputs.T:
            before = np.concatenate([wrapped, now[:, :-1]], axis=1)
            wrapped = now[:, -1:]
            now = np.sin(alpha * before + beta * device["mask"] * u[:, None] + phi)
        return now


BLACK_BOX = DelayReservoir()
