"""What every attached device needs around its link: checks, reconnection, and its programming written again.

`AttachedDriver` makes a `Driver` of a link (`hyle_substrates.link`): the call that failed says so, the next one opens a
new link and writes every tile again before anything is read, so that no answer comes from matter that has forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hyle_substrates.driver import (
    BadAnswerError,
    Codes,
    Device,
    DeviceError,
    Driver,
    NotANumberError,
    ProgramReport,
    WrongDeviceError,
)
from hyle_substrates.link import Link, readings

__all__ = ["AttachedDriver"]


class AttachedDriver:
    """A driver that outlives its device's absence.

    Args:
        open_link: Opens the conversation with the device; its result keeps the `Driver` contract while all is well.

    Raises:
        DeviceError: The device is not there now.
    """

    def __init__(self, open_link: Callable[[], Driver]) -> None:
        self._written: dict[int, Codes] = {}
        self._link = Link(open_link, self._greeted)
        self._device = self._link.call(_described)

    def describe(self) -> Device:
        """Return the device; `connected` in its health is 1 while it answers. Never raises before `close`."""
        try:
            now = self._link.call(_described)
        except DeviceError as error:
            if self._link.closed:
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
        report = self._link.call(lambda link: link.program(tile, kept))
        self._written[tile] = kept
        return report

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Drive and read. Contract: `Driver.apply`."""
        self._link.check_open()
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
        return self._link.call(lambda link: self._checked(link.apply(tiles, codes), (len(codes), width)))

    def width(self, tiles: Sequence[int]) -> int:
        """Columns that `tiles` answer with; 0 for those that are not programmed."""
        return sum(self._written[tile].shape[1] for tile in tiles if tile in self._written)

    def close(self) -> None:
        """Give the device back."""
        self._written.clear()
        self._link.close()

    def _greeted(self, link: Driver) -> None:
        """See that the device is the one that was there, and write again what it held."""
        found = link.describe()
        if (found.identity, found.profile) != (self._device.identity, self._device.profile):
            raise WrongDeviceError(
                f"{found.identity!r} answers where {self._device.identity!r} was.",
                remedy="Attach the device that was there, or start again.",
            )
        for tile, targets in self._written.items():
            link.program(tile, targets)

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


def _described(link: Driver) -> Device:
    found = link.describe()
    return replace(found, health=readings(found.health))
