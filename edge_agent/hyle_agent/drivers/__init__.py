"""Drivers by name, from the entry points of installed packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import cast

from hyle_substrates.box_driver import BoxDriver
from hyle_substrates.driver import BlackBox, Driver

from hyle_agent.errors import ConfigError

__all__ = ["GROUP", "find_device", "find_driver"]

GROUP = "hyle.drivers"

Connect = Callable[[Mapping[str, str]], Driver]


def find_driver(name: str) -> Connect:
    """Return what opens a driver.

    Raises:
        ConfigError: No installed package offers a driver of that name, or two do, or it cannot be imported.
    """
    known = entry_points(group=GROUP)
    found = [entry for entry in known if entry.name == name]
    if not found:
        names = ", ".join(sorted({entry.name for entry in known})) or "none"
        message = f"driver.name: there is no driver {name!r}; known: {names}."
        raise ConfigError(message, remedy="Use one of these, or install its package.")
    if len({entry.value for entry in found}) > 1:
        sources = " and ".join(sorted(entry.value for entry in found))
        raise ConfigError(f"driver.name: {name!r} is both {sources}.", remedy="Uninstall one of the two packages.")
    try:
        return cast(Connect, found[0].load())
    except (ImportError, AttributeError) as error:
        message = f"driver.name: the driver {name!r} cannot be imported from {found[0].value}: {error}."
        raise ConfigError(message, remedy="Install what it needs.") from error


def find_device(driver: str, black_box: str = "", options: Mapping[str, str] | None = None) -> Connect:
    """Return what opens an agent's device: a matrix device, a black box, or one beside the other.

    Args:
        driver: Name of the driver whose options are given when it is opened.
        black_box: Name of the driver of the black box beside a matrix device, "" for none.
        options: That driver's options.

    Raises:
        ConfigError: As for `find_driver`; opening raises it where the two are not of these kinds.
    """
    connect = find_driver(driver)
    beside = find_driver(black_box) if black_box else None

    def connect_device(given: Mapping[str, str]) -> Driver:
        device = connect(given)
        if beside is None:
            return BoxDriver(device) if isinstance(device, BlackBox) else device
        try:
            return _joined(device, driver, beside, black_box, options or {})
        except BaseException:
            device.close()
            raise

    return connect_device


def _joined(device: Driver, driver: str, beside: Connect, black_box: str, options: Mapping[str, str]) -> Driver:
    if isinstance(device, BlackBox):
        message = f"driver.name: the device of the driver {driver!r} is a black box already."
        raise ConfigError(message, remedy="Leave out the table `black_box`.")
    box = beside(options)
    if not isinstance(box, BlackBox):
        box.close()
        message = f"black_box.name: the device of the driver {black_box!r} is no black box."
        raise ConfigError(message, remedy="Name it in the table `driver`.")
    return BoxDriver(box, device)
