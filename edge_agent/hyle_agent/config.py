"""The agent's configuration: `agent.toml`, read into frozen values that have been checked."""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from hyle_bundle.words import Text
from hyle_errors import HyleError

from hyle_agent.address import Address, parse_address
from hyle_agent.errors import ConfigError
from hyle_agent.maintenance import MaintenanceConfig
from hyle_agent.policy import Fallback, Policy

if TYPE_CHECKING:
    from hyle_agent.telemetry.config import TelemetryConfig

__all__ = ["Config", "DriverConfig", "Tls", "check", "read_config"]

_TELEMETRY_FILES = {"password_file", "ca_file", "outbox"}
_EXPLAINED = "`hyle agent init` writes a file that explains every field."

Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=31_536_000.0)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[^\s\x00-\x1f\x7f-\x9f+/#]{1,64}\Z")]


class DriverConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which driver owns the device, by its entry-point name, and what it is told."""

    name: Text = "twin"
    options: dict[str, Text | int | float | bool] = {}

    def words(self) -> dict[str, str]:
        """Return the options as a driver takes them: text."""
        return {key: str(value) for key, value in self.options.items()}


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files, PEM: the agent's certificate and key, and the authority that clients' certificates must come from."""

    certificate: Text
    key: Text
    client_ca: Text = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator decided.

    Attributes:
        node: The agent's name in its fleet.
        listen: Address to serve on, `HOST:PORT` or `unix:PATH`; port 0 takes a free one.
        store: Folder of the slots.
        trusted: Public keys, PEM files, of those whose bundles run here.
        insecure: Run bundles that none of them signed; only on loopback.
        threads: Threads for the digital part of a model; a simulated device uses every core that the process may.
        queue: Requests that may wait for the device; more are refused.
        max_batch: Samples of several requests that one execution may answer; 1 for a device that takes one at a time.
        engine: What serves: `completion-queue`, `aio`, or `auto` for the first of them that passes its self-test.
        max_message_mb: Largest request, in MiB.
        drain_s: Longest time that a stop waits for answers in progress.
        self_test_interval_s: Time between self-tests of what serves, 0 for none.
        watch_s: How long a newly activated slot is on trial before it is marked good, 0 for no trial.
        watch_deaths: Deaths of the process during the trial after which the old slot serves again.
        false_alarm_interval_s: Mean time between two false drift alarms, 0 for no drift detection.
        recalibrate: Whether the agent may measure compensation anew by itself.
        fallback: What answers in place of a device that cannot: `none`, its `twin`, or the model computed exactly,
            `digital`.
        device_timeout_s: Longest time that the device may take for one self-test or one step of a calibration.
        operators: Public keys, PEM files, of those who may sign overrides; by default those of `trusted`.
        driver: The device.
        maintenance: How the device is lent to who calibrates or adapts on it.
        black_box: A black box beside a matrix device, for bundles that have layers of both kinds.
        tls: Certificates; without them the agent serves in the clear, on loopback only.
        telemetry: The table that `hyle_agent.telemetry.TelemetryConfig` reads; without it nothing is reported.
    """

    node: Name = msgspec.field(default_factory=lambda: socket.gethostname()[:64] or "agent")
    listen: str = "127.0.0.1:8500"
    store: Annotated[str, msgspec.Meta(pattern=r"^[^\x00]+\Z")] = "hyle-store"
    trusted: tuple[Text, ...] = ()
    insecure: bool = False
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    queue: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 256
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 64
    engine: Literal["auto", "completion-queue", "aio"] = "auto"
    max_message_mb: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    drain_s: Seconds = 10.0
    self_test_interval_s: Seconds = 300.0
    watch_s: Seconds = 30.0
    watch_deaths: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    false_alarm_interval_s: Seconds = 31_536_000.0
    recalibrate: bool = True
    fallback: Fallback = "none"
    device_timeout_s: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 60.0
    operators: tuple[Text, ...] = ()
    driver: DriverConfig = DriverConfig()
    maintenance: MaintenanceConfig = MaintenanceConfig()
    black_box: DriverConfig | None = None
    tls: Tls | None = None
    telemetry: dict[str, Any] | None = None

    @property
    def address(self) -> Address:
        """Where to listen."""
        return parse_address(self.listen, "listen")

    @property
    def policy(self) -> Policy:
        """How to look after what serves."""
        return Policy(
            watch_s=self.watch_s,
            watch_deaths=self.watch_deaths,
            test_s=self.self_test_interval_s,
            false_alarm_s=self.false_alarm_interval_s,
            recalibrate=self.recalibrate,
            fallback=self.fallback,
            device_timeout_s=self.device_timeout_s,
            node=self.node,
        )

    def telemetry_config(self) -> TelemetryConfig | None:
        """Return what telemetry is told, None to report nothing.

        Raises:
            ConfigError: A field of the table is unknown or of the wrong type.
            TelemetryConfigError: A value is out of its range.
        """
        if self.telemetry is None:
            return None
        from hyle_agent.telemetry.config import TelemetryConfig

        try:
            return msgspec.convert({"node": self.node, **self.telemetry}, TelemetryConfig)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, HyleError):
                raise error.__cause__ from error
            raise ConfigError(f"telemetry: {error}.", remedy=_EXPLAINED) from error


def read_config(path: Path | None) -> Config:
    """Read a configuration file; relative paths in it are relative to its folder. No file means all defaults.

    Raises:
        ConfigError: It cannot be read, or a field is unknown, missing or out of its range.
    """
    if path is None:
        return Config()
    try:
        table = tomllib.loads(path.read_text())
        config = msgspec.convert(table, Config)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise ConfigError(message, remedy="Write one with `hyle agent init`.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.", remedy=_EXPLAINED) from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}.", remedy=_EXPLAINED) from error
    return _anchored(config, path.resolve().parent)


def check(config: Config) -> None:
    """Refuse a configuration that would let in whom nobody meant to.

    Raises:
        ConfigError: `insecure`, or no TLS with client certificates, on an address that other machines can reach.
    """
    config.telemetry_config()
    if config.address.loopback:
        return
    if config.insecure:
        message = f"listen: {config.listen} can be reached by other machines, and the agent was told to be insecure."
        raise ConfigError(message, remedy="Listen on 127.0.0.1, or leave out --insecure and name trusted keys.")
    if config.tls is None or not config.tls.client_ca:
        message = f"tls: {config.listen} can be reached by other machines, and no client_ca is named."
        raise ConfigError(message, remedy="Make certificates with `hyle agent init`, or listen on 127.0.0.1.")


def _anchored(config: Config, folder: Path) -> Config:
    def at(text: str) -> str:
        return str(folder / text) if text else text

    tls = config.tls and Tls(at(config.tls.certificate), at(config.tls.key), at(config.tls.client_ca))
    trusted, operators = (tuple(at(path) for path in keys) for keys in (config.trusted, config.operators))
    driver = _driver_anchored(config.driver, folder)
    black_box = config.black_box and _driver_anchored(config.black_box, folder)
    socket_path = config.listen.removeprefix("unix:")
    listen = f"unix:{at(socket_path)}" if socket_path != config.listen else config.listen
    telemetry = config.telemetry and {
        key: at(value) if key in _TELEMETRY_FILES and isinstance(value, str) else value
        for key, value in config.telemetry.items()
    }
    return msgspec.structs.replace(
        config,
        listen=listen,
        store=at(config.store),
        trusted=trusted,
        operators=operators,
        driver=driver,
        black_box=black_box,
        tls=tls,
        telemetry=telemetry,
    )


def _driver_anchored(driver: DriverConfig, folder: Path) -> DriverConfig:
    """Which of a driver's options are paths only the driver knows: one that names a file in the folder is that file."""

    def at(value: str | int | float | bool) -> str | int | float | bool:
        found = isinstance(value, str) and os.path.isfile(folder / value)  # noqa: PTH113 - False for too long a name
        return str(folder / str(value)) if found else value

    return DriverConfig(driver.name, {key: at(value) for key, value in driver.options.items()})
