"""The `matter` driver: a black box made of numbers, a first-class driver like any other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hyle_errors import CallerError

from hyle_substrates import draws
from hyle_substrates.attached_black_box import AttachedBlackBox
from hyle_substrates.box_profile import BoxProfile, load_box, load_physics
from hyle_substrates.driver import BlackBoxInfo, Floats

__all__ = ["SimulatedBox", "connect"]


class SimulatedBox:
    """One simulated device.

    Args:
        profile: Its sheet.
        seed: Which device; the same seed gives the same one on every machine, and the same noise.
        noiseless: Leave out the noise of the readings.
    """

    def __init__(self, profile: BoxProfile, seed: int = 0, *, noiseless: bool = False) -> None:
        if seed < 0:
            raise CallerError(f"The seed is {seed}.", remedy="Give a seed of 0 or more.")
        self._profile, self._seed = profile, seed
        self._physics = load_physics(profile.black_box)
        self._parameters = self._physics.parameters(profile)
        self._device = self._physics.made(
            profile, lambda name, shape: draws.normal(seed, profile.name, name, shape=shape)
        )
        self._noise_std = 0.0 if noiseless else profile.noise_std
        self._reads = np.random.Generator(np.random.Philox(key=[seed, 0x626F78]))

    def describe(self) -> BlackBoxInfo:
        """Return the device's identity and sizes."""
        p = self._profile
        return BlackBoxInfo(f"matter:{p.name}:{self._seed}", self._parameters, p.inputs, p.outputs, simulated=True)

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        """Let the matter answer, and read it. Contract: `BlackBox.respond`."""
        exact = self._physics.respond(self._profile, self._device, parameters, inputs)
        return exact + self._noise_std * self._reads.standard_normal(exact.shape) if self._noise_std else exact

    def close(self) -> None:
        """Nothing to give back."""


def connect(options: Mapping[str, str]) -> AttachedBlackBox:
    """Make a simulated black box.

    Args:
        options: `profile` (name or path of a .toml file), and optionally `seed` (an integer ≥ 0).

    Raises:
        CallerError: An option is missing, unknown or not a number, or there is no such sheet.
    """
    unknown = set(options) - {"profile", "seed"}
    if unknown or "profile" not in options:
        wrong = f"has no option {sorted(unknown)[0]!r}" if unknown else "needs the option 'profile'"
        raise CallerError(f"The matter driver {wrong}.", remedy="Its options are profile and seed.")
    text = options.get("seed", "0")
    if not text.isdecimal():
        raise CallerError(f"The matter driver's seed is {text!r}.", remedy="Give an integer of 0 or more.")
    profile, seed = load_box(options["profile"]), int(text)
    return AttachedBlackBox(lambda: SimulatedBox(profile, seed))
