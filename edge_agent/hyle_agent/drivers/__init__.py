"""Drivers by name, from the entry points of installed packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import cast

from hyle_substrates.driver import BlackBox, Driver

from hyle_agent.errors import ConfigError

__all__ = ["GROUP", "find_driver", "find_matrix_driver"]

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


def find_matrix_driver(name: str) -> Connect:
    """Return what opens a driver whose device multiplies by matrices; opening another kind raises ConfigError.

    Raises:
        ConfigError: As for `find_driver`.
    """
    connect = find_driver(name)

    def connect_matrix(options: Mapping[str, str]) -> Driver:
        driver = connect(options)
        if isinstance(driver, BlackBox):
            driver.close()
            message = f"driver.name: the device of the driver {name!r} is a black box and multiplies by no matrix."
            raise ConfigError(message, remedy="Use a driver of a matrix device: twin, remote, serial or your own.")
        return driver

    return connect_matrix
