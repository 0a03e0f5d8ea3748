"""The same for a black box: checks, and a new link when the old one failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from hyle_errors import CallerError

from hyle_substrates.attached import guarded, readings
from hyle_substrates.driver import (
    BadAnswerError,
    BlackBox,
    BlackBoxInfo,
    DeviceError,
    Floats,
    NotANumberError,
    WrongDeviceError,
)

__all__ = ["AttachedBlackBox"]

T = TypeVar("T")


class AttachedBlackBox:
    """A black box that outlives its device's absence.

    Args:
        open_link: Opens the conversation with the device; its result keeps the `BlackBox` contract while all is well.

    Raises:
        DeviceError: The device is not there now.
    """

    def __init__(self, open_link: Callable[[], BlackBox]) -> None:
        self._open = open_link
        self._closed = False
        self._link: BlackBox | None = None
        self._identity = ""
        self._info = self._call(_described)
        self._identity = self._info.identity

    def describe(self) -> BlackBoxInfo:
        """Return the device; `connected` in its health is 1 while it answers."""
        try:
            found = self._call(_described)
        except DeviceError as error:
            if self._closed:
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
        return self._call(lambda link: self._checked(link.respond(parameters, inputs), (len(inputs), info.outputs)))

    def close(self) -> None:
        """Give the device back."""
        self._closed = True
        self._drop()

    def _call(self, work: Callable[[BlackBox], T]) -> T:
        if self._closed:
            raise DeviceError("The device was closed.", remedy="Connect again.")
        try:
            return guarded(lambda: work(self._linked()))
        except DeviceError:
            self._drop()
            raise

    def _linked(self) -> BlackBox:
        if self._link is None:
            self._link = self._open()
            found = self._link.describe().identity
            if self._identity and found != self._identity:
                raise WrongDeviceError(
                    f"{found!r} answers where {self._identity!r} was.",
                    remedy="Attach the device that was there, or start again.",
                )
        return self._link

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

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(DeviceError, OSError):
                link.close()


def _described(link: BlackBox) -> BlackBoxInfo:
    found = link.describe()
    return replace(found, health=readings(found.health))
