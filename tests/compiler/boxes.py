"""Black boxes that tests know through and through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hyle_substrates.driver import BlackBoxInfo, DeviceError, Floats


class Bent:
    """A mixture that saturates, with noise of its own; fails on the calls that it is told to fail on."""

    def __init__(
        self,
        parameters: int = 2,
        inputs: int = 6,
        outputs: int = 5,
        noise: float = 0.01,
        bend: float = 1.0,
        fails: Callable[[int], bool] = lambda call: False,
        identity: str = "bent:1",
        low: float = -1.0,
        high: float = 1.0,
    ) -> None:
        rng = np.random.default_rng(0)
        size = parameters + inputs
        self._matrix = rng.standard_normal((size, outputs)) / np.sqrt(size)
        self._noise, self._bend, self._fails = noise, bend, fails
        self._rng = np.random.default_rng(7)
        self._info = BlackBoxInfo(identity, parameters, inputs, outputs, low, high, health={"connected": 1.0})
        self.calls = self.samples = 0

    def describe(self) -> BlackBoxInfo:
        return self._info

    def exact(self, parameters: Floats, inputs: Floats) -> Floats:
        values = np.concatenate([parameters, inputs], axis=1)
        u = 2.0 * (values - self._info.low) / (self._info.high - self._info.low) - 1.0
        answer: Floats = np.tanh(self._bend * 2.0 * u @ self._matrix) / max(self._bend, 1e-9)
        return answer

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        self.calls += 1
        if self._fails(self.calls):
            raise DeviceError("The device is away.", remedy="Plug it in.")
        self.samples += len(inputs)
        exact = self.exact(parameters, inputs)
        return exact + self._noise * self._rng.standard_normal(exact.shape)

    def close(self) -> None: ...
