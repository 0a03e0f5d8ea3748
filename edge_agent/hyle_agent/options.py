"""What the command line says beside the configuration file; it has the last word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hyle_agent.address import parse_address
from hyle_agent.config import Config, DriverConfig
from hyle_agent.errors import ConfigError

__all__ = ["Options", "with_options"]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of `hyle agent run`; None leaves what the configuration says."""

    listen: str | None = None
    store: str | None = None
    insecure: bool = False
    trusted: Sequence[str] | None = None
    driver: str | None = None
    driver_options: Mapping[str, str] = field(default_factory=dict)
    broker: str | None = None
    node: str | None = None


def with_options(config: Config, options: Options) -> Config:
    """Return the configuration with the options in it.

    Raises:
        ConfigError: An option is not what it must be.
    """
    given: dict[str, Any] = {"listen": options.listen, "store": options.store, "node": options.node}
    changes = {key: value for key, value in given.items() if value is not None}
    if options.insecure:
        changes["insecure"] = True
    if options.trusted is not None:
        changes["trusted"] = tuple(options.trusted)
    if options.broker is not None:
        address = parse_address(options.broker, "--broker")
        changes["telemetry"] = {**(config.telemetry or {}), "host": address.host, "port": address.port}
    changes["driver"] = _driver(config.driver, options)
    return _checked(msgspec.structs.replace(config, **changes))


def _driver(driver: DriverConfig, options: Options) -> DriverConfig:
    name = options.driver or driver.name
    kept = driver.options if name == driver.name else {}
    merged = {**kept, **options.driver_options}
    if name == "twin":
        merged = {"profile": "pcm-hermes", "seed": "0", **merged}
    return DriverConfig(name, merged)


def _checked(config: Config) -> Config:
    try:
        return msgspec.convert(msgspec.to_builtins(config), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error}.", remedy="`hyle agent run --help` says what each option takes.") from error
