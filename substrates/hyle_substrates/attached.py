"""What every attached device needs around its link: checks, reconnection, and its programming written again.

A link is the plain conversation with one device that is there; it may raise `DeviceError` or `OSError` at any moment
and is then thrown away. Any other exception counts as an answer that nobody understands. `AttachedDriver` makes a
`Driver` of it: the call that failed says so, the next one opens a new link and writes every tile again before anything
is read, so that no answer comes from matter that has forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import TypeVar

import numpy as np
from hyle_errors import HyleError

from hyle_substrates.driver import (
    BadAnswerError,
    Codes,
    Device,
    DeviceAwayError,
    DeviceError,
    DeviceTimeoutError,
    Driver,
    NotANumberError,
    ProgramReport,
    WrongDeviceError,
)

__all__ = ["AttachedDriver", "guarded", "readings"]

T = TypeVar("T")


class AttachedDriver:
    """A driver that outlives its device's absence.

    Args:
        open_link: Opens the conversation with the device; its result keeps the `Driver` contract while all is well.

    Raises:
        DeviceError: The device is not there now.
    """

    def __init__(self, open_link: Callable[[], Driver]) -> None:
        self._open = open_link
        self._written: dict[int, Codes] = {}
        self._closed = False
        self._link: Driver | None = guarded(open_link)
        self._device = self._call(_described)

    def describe(self) -> Device:
        """Return the device; `connected` in its health is 1 while it answers. Never raises before `close`."""
        try:
            now = self._call(_described)
        except DeviceError as error:
            if self._closed:
                raise
            health = {**self._device.health, "connected": 0.0}
            return replace(self._device, health=health, fault=error.fault)
        self._device = replace(now, health={**now.health, "connected": 1.0})
        return self._device

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write one tile and remember what was written. Contract: `Driver.program`."""
        levels = self._device.profile.weights.levels
        array = self._device.profile.array
        if not 0 <= tile < self._device.tiles:
            raise DeviceError(f"There is no tile {tile}.", remedy=f"The device has {self._device.tiles} tiles.")
        if targets.ndim != 2 or targets.shape[0] > array.rows or targets.shape[1] > array.cols:
            raise DeviceError(
                f"Targets of shape {targets.shape} do not fit a tile of {array.rows} x {array.cols}.",
                remedy="Split the layer.",
            )
        _check_range(targets, levels, "target")
        kept = np.array(targets)
        self._written.pop(tile, None)
        report = self._call(lambda link: link.program(tile, kept))
        self._written[tile] = kept
        return report

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Drive and read. Contract: `Driver.apply`."""
        if self._closed:
            raise _closed()
        rows = {self._programmed(tile).shape[0] for tile in tiles}
        if codes.ndim != 2 or rows != {codes.shape[1]}:
            raise DeviceError(
                f"Codes of shape {codes.shape} were sent to tiles of {sorted(rows)} rows.",
                remedy="Send batch by rows, to tiles of as many rows.",
            )
        dac = self._device.profile.dac
        _check_range(codes, dac.levels, "DAC code")
        if dac.nonnegative and codes.size and codes.min() < 0:
            raise DeviceError("A DAC code is negative.", remedy="Drive this device in two passes.")
        width = sum(self._written[tile].shape[1] for tile in tiles)
        if not len(codes):
            return np.zeros((0, width), dtype=codes.dtype)
        return self._call(lambda link: self._checked(link.apply(tiles, codes), (len(codes), width)))

    def width(self, tiles: Sequence[int]) -> int:
        """Columns that `tiles` answer with; 0 for those that are not programmed."""
        return sum(self._written[tile].shape[1] for tile in tiles if tile in self._written)

    def close(self) -> None:
        """Give the device back."""
        self._closed = True
        self._written.clear()
        self._drop()

    def _call(self, work: Callable[[Driver], T]) -> T:
        if self._closed:
            raise _closed()
        try:
            return guarded(lambda: work(self._linked()))
        except DeviceError:
            self._drop()
            raise

    def _linked(self) -> Driver:
        if self._link is None:
            self._link = self._open()
            found = self._link.describe()
            if (found.identity, found.profile) != (self._device.identity, self._device.profile):
                raise WrongDeviceError(
                    f"{found.identity!r} answers where {self._device.identity!r} was.",
                    remedy="Attach the device that was there, or start again.",
                )
            for tile, targets in self._written.items():
                self._link.program(tile, targets)
        return self._link

    def _checked(self, answer: Codes, shape: tuple[int, int]) -> Codes:
        if answer.shape != shape:
            raise BadAnswerError(
                f"The device answered with shape {answer.shape}, not {shape}.", remedy="Check the device's firmware."
            )
        _check_answer(answer, self._device.profile.adc.levels)
        return answer

    def _programmed(self, tile: int) -> Codes:
        if tile not in self._written:
            raise DeviceError(f"Tile {tile} is not programmed.", remedy="Program it first.")
        return self._written[tile]

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(DeviceError, OSError):
                link.close()


def _check_range(values: Codes, levels: int, what: str) -> None:
    if not np.isfinite(values).all():
        raise DeviceError(f"A {what} is not finite.", remedy="Give finite numbers.")
    if levels and values.size and (int(values.max()) > levels or int(values.min()) < -levels):
        raise DeviceError(f"A {what} exceeds {levels}.", remedy="Encode with this device's profile.")


def _check_answer(codes: Codes, levels: int) -> None:
    if not np.isfinite(codes).all():
        raise NotANumberError("An ADC code is not finite.", remedy="Check the device and its firmware.")
    if levels and codes.size and (int(codes.max()) > levels or int(codes.min()) < -levels):
        raise BadAnswerError(f"An ADC code exceeds {levels}.", remedy="Check the device and its profile.")


def readings(health: Mapping[str, float]) -> dict[str, float]:
    """Return a device's live readings as numbers; BadAnswerError names the one that is none."""
    for name, value in health.items():
        if not isinstance(value, (Real, np.bool_)):
            raise BadAnswerError(f"The reading {name!r} is no number.", remedy="Check the device and its driver.")
    return {name: float(value) for name, value in health.items()}


def _described(link: Driver) -> Device:
    found = link.describe()
    return replace(found, health=readings(found.health))


def guarded(work: Callable[[], T]) -> T:
    """Do a part of the conversation with a device.

    Raises:
        DeviceError: The device did not answer, or its driver does not understand what it answered. The message holds no
            text of an unexpected exception, which may hold values.
        HyleError: What the driver raised.
    """
    try:
        return work()
    except HyleError:
        raise
    except TimeoutError as error:
        raise DeviceTimeoutError(f"The device does not answer: {error}.", remedy="Check what it does.") from error
    except OSError as error:
        message = f"The device does not answer: {error}."
        raise DeviceAwayError(message, remedy="Check its power and its cable.") from error
    except Exception as error:
        message = f"The device sent what its driver does not understand ({type(error).__name__})."
        raise BadAnswerError(message, remedy="Check its firmware, and the driver.") from error


def _closed() -> DeviceError:
    return DeviceError("The device was closed.", remedy="Connect again.")
