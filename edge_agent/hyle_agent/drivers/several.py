"""Several devices of one kind as one device with more tiles, for models that one does not hold.

Options: `of`, the driver of each; `devices`, how many; all others are given to every device, but for those that end in
`.1`, `.2`, …, which are given to that device alone (`address.2 = …`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from hyle_substrates.driver import Codes, Device, DeviceError, Driver, ProgramReport, SimulatedMatter, Weights

from hyle_agent.errors import ConfigError

__all__ = ["Several", "connect", "join"]

MOST_DEVICES = 64


class Several:
    """Devices side by side; tile n is tile n modulo the tiles of one, on the device of the quotient.

    Args:
        devices: At least one, all with the same profile and number of tiles.
    """

    def __init__(self, devices: Sequence[Driver]) -> None:
        self._devices = tuple(devices)
        self._tiles = self._devices[0].describe().tiles

    def describe(self) -> Device:
        """One device: the identities joined, the readings of the worst, the first fault."""
        told = [device.describe() for device in self._devices]
        names = dict.fromkeys(name for one in told for name in one.health)
        health = {}
        for name in names:
            readings = [one.health[name] for one in told if name in one.health]
            health[name] = min(readings) if name == "connected" else max(readings)
        return Device(
            identity="+".join(one.identity for one in told),
            profile=told[0].profile,
            tiles=self._tiles * len(told),
            simulated=all(one.simulated for one in told),
            health=health,
            fault=next((one.fault for one in told if one.fault), ""),
        )

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write one tile. Contract: `Driver.program`."""
        device, place = self._at(tile)
        report = self._devices[device].program(place, targets)
        return ProgramReport(tile, report.residual, report.seconds)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Drive tiles that share their rows; those of one device together. Contract: `Driver.apply`."""
        places = [self._at(tile) for tile in tiles]
        runs: list[tuple[int, list[int]]] = []
        for device, place in places:
            if runs and runs[-1][0] == device:
                runs[-1][1].append(place)
            else:
                runs.append((device, [place]))
        parts = [self._devices[device].apply(own, codes) for device, own in runs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def close(self) -> None:
        """Give all devices back."""
        for device in self._devices:
            device.close()

    def _at(self, tile: int) -> tuple[int, int]:
        if not 0 <= tile < self._tiles * len(self._devices):
            there = self._tiles * len(self._devices)
            raise DeviceError(f"There is no tile {tile}.", remedy=f"The devices have {there} tiles together.")
        return divmod(tile, self._tiles)


class _SeveralTwins(Several):
    """The same for twins, whose weights can be read and whose clocks can be set."""

    def weights(self, tile: int) -> Weights:
        device, place = self._at(tile)
        return cast(SimulatedMatter, self._devices[device]).weights(place)

    def advance(self, age_s: float) -> None:
        for device in self._devices:
            cast(SimulatedMatter, device).advance(age_s)


def join(devices: Sequence[Driver]) -> Several:
    """Put devices side by side.

    Raises:
        ConfigError: They are not of one kind and size.
    """
    told = [device.describe() for device in devices]
    for number, one in enumerate(told[1:], start=2):
        if (one.profile, one.tiles) != (told[0].profile, told[0].tiles):
            raise ConfigError(
                f"Device {number} is a {one.profile.name!r} of {one.tiles} tiles, the first a "
                f"{told[0].profile.name!r} of {told[0].tiles}.",
                remedy="Join devices of one kind.",
            )
    twins = all(isinstance(device, SimulatedMatter) for device in devices)
    return (_SeveralTwins if twins else Several)(devices)


def connect(options: Mapping[str, str]) -> Several:
    """Open all devices.

    Raises:
        ConfigError: An option is missing or wrong, or the devices differ.
    """
    from hyle_agent.drivers import find_driver

    given = dict(options)
    name, text = given.pop("of", ""), given.pop("devices", "")
    if not name or name == "several" or not text.isdigit() or not 1 <= int(text) <= MOST_DEVICES:
        message = f"The driver `several` has of = {name!r}, devices = {text!r}."
        raise ConfigError(message, remedy=f"Name a driver in `of`, and in `devices` a number from 1 to {MOST_DEVICES}.")
    opener, opened = find_driver(name), []
    try:
        for number in range(1, int(text) + 1):
            opened.append(opener(_own(given, number)))
        return join(opened)
    except BaseException:
        for device in opened:
            device.close()
        raise


def _own(options: Mapping[str, str], number: int) -> dict[str, str]:
    """What one device is given: the options of all, and its own instead where there are any."""
    shared = {key: value for key, value in options.items() if not key.rpartition(".")[2].isdigit()}
    suffix = f".{number}"
    return shared | {key.removesuffix(suffix): value for key, value in options.items() if key.endswith(suffix)}
