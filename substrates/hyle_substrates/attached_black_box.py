"""The same for a black box: checks, and a new link when the old one failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hyle_errors import CallerError

from hyle_substrates.driver import (
    BadAnswerError,
    BlackBox,
    BlackBoxInfo,
    DeviceError,
    Floats,
    NotANumberError,
    WrongDeviceError,
)
from hyle_substrates.link import Link, readings

__all__ = ["AttachedBlackBox"]


class AttachedBlackBox:
    """A black box that outlives its device's absence.

    Args:
        open_link: Opens the conversation with the device; its result keeps the `BlackBox` contract while all is well.

    Raises:
        DeviceError: The device is not there now.
    """

    def __init__(self, open_link: Callable[[], BlackBox]) -> None:
        self._link = Link(open_link, self._greeted)
        self._info = self._link.call(_described)

    def describe(self) -> BlackBoxInfo:
        """Return the device; `connected` in its health is 1 while it answers."""
        try:
            found = self._link.call(_described)
        except DeviceError as error:
            if self._link.closed:
                raise
            return replace(self._info, health={**self._info.health, "connected": 0.0}, fault=error.fault)
        self._info = replace(found, health={**found.health, "connected": 1.0})
        return self._info

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        """Drive and read. Contract: `BlackBox.respond`."""
        info = self._info
        self._check(parameters, info.parameters, "parameters")
        self._check(inputs, info.inputs, "inputs")
        if len(parameters) != len(inputs):
            raise CallerError("Parameters and inputs are of different batches.", remedy="Give one row for each sample.")
        return self._link.call(
            lambda link: self._checked(link.respond(parameters, inputs), (len(inputs), info.outputs))
        )

    def close(self) -> None:
        """Give the device back."""
        self._link.close()

    def _greeted(self, link: BlackBox) -> None:
        found = link.describe().identity
        if found != self._info.identity:
            raise WrongDeviceError(
                f"{found!r} answers where {self._info.identity!r} was.",
                remedy="Attach the device that was there, or start again.",
            )

    def _checked(self, answer: Floats, shape: tuple[int, int]) -> Floats:
        if answer.shape != shape:
            raise BadAnswerError("The device's answer has holes.", remedy="Check the device and its cable.")
        if not np.isfinite(answer).all():
            raise NotANumberError("The device's answer has holes.", remedy="Check the device and its cable.")
        return answer

    def _check(self, values: Floats, count: int, what: str) -> None:
        if values.ndim != 2 or values.shape[1] != count:
            raise CallerError(f"The {what} have shape {values.shape}.", remedy=f"Give batch by {count}.")
        if not np.isfinite(values).all():
            raise CallerError(f"The {what} are not finite.", remedy="Give finite values.")
        if values.size and (values.min() < self._info.low or values.max() > self._info.high):
            raise CallerError(
                f"The {what} leave [{self._info.low}, {self._info.high}].", remedy="Scale them into that range."
            )


def _described(link: BlackBox) -> BlackBoxInfo:
    found = link.describe()
    return replace(found, health=readings(found.health))
