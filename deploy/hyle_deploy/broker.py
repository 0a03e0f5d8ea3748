"""An MQTT broker for this machine alone: for the demo and for tests, never for a fleet."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

from hyle_errors import CallerError, InternalError

__all__ = ["Broker", "BrokerStartError", "NoBrokerError", "available_brokers", "find_mosquitto", "start_broker"]

_HOST = "127.0.0.1"
_ATTEMPTS = 5
_START_S = 10.0
_STOP_S = 5.0
_EMBEDDED = """
import os, sys, threading
sys.path[:] = [entry for entry in sys.path if entry not in ("", ".")]
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
from iotcore import IotCoreBroker
IotCoreBroker(config_path=None, listen=sys.argv[1], port=int(sys.argv[2])).run_forever()
"""


class NoBrokerError(CallerError):
    """No broker is installed."""


class BrokerStartError(InternalError):
    """A broker that is installed did not come up."""


@dataclass(slots=True)
class Broker:
    """A running broker, bound to loopback; a child process that ends with this one.

    Attributes:
        host: Address that it listens on.
        port: TCP port.
        kind: `mosquitto` or `iotcore`.
    """

    host: str
    port: int
    kind: str
    _process: subprocess.Popen[bytes]
    _folder: Path

    @property
    def pid(self) -> int:
        """Process that serves."""
        return self._process.pid

    def stop(self) -> None:
        """End it and remove its files; safe to call twice."""
        atexit.unregister(self.stop)
        _end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_mosquitto() -> str | None:
    """Path of the `mosquitto` program, on PATH or where Debian puts it; None where there is none."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def available_brokers() -> list[str]:
    """Kinds of broker that can be started here, the preferred one first."""
    found = {"mosquitto": find_mosquitto() is not None, "iotcore": find_spec("iotcore") is not None}
    return [kind for kind, present in found.items() if present]


def start_broker(directory: Path, *, kind: str | None = None, port: int | None = None) -> Broker:
    """Start a broker that accepts anybody on this machine, and wait until it answers.

    Args:
        directory: Where its configuration and log go, in a new folder that `stop` removes.
        kind: `mosquitto` or `iotcore`; the first that is installed by default.
        port: TCP port; a free one by default.

    Returns:
        The broker, which accepts connections now.

    Raises:
        NoBrokerError: None, or not that one, is installed.
        BrokerStartError: It did not come up; the message ends with the last line that it said.
    """
    kinds = available_brokers()
    if not kinds or (kind is not None and kind not in kinds):
        raise NoBrokerError(
            f"No MQTT broker{f' {kind!r}' if kind else ''} is installed here.",
            remedy="Install mosquitto (`apt-get install mosquitto`) or the embedded one (`pip install 'hyle[demo]'`).",
        )
    if port is not None and not _is_free(port):
        raise BrokerStartError(f"Port {port} is taken.", remedy="Free it, or give another.")
    chosen = kind or kinds[0]
    said = ""
    for _ in range(1 if port else _ATTEMPTS):
        folder = Path(mkdtemp(prefix="broker-", dir=directory.resolve()))
        number = port or _free_port()
        process = _launch(chosen, folder, number)
        if _await(process, number):
            broker = Broker(_HOST, number, chosen, process, folder)
            atexit.register(broker.stop)
            return broker
        _end(process)
        said = _last_line(folder / "broker.log")
        shutil.rmtree(folder, ignore_errors=True)
    raise BrokerStartError(f"{chosen} did not come up: {said}", remedy="Free its port, or start a broker yourself.")


def _launch(kind: str, folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = {"mosquitto": _mosquitto_command, "iotcore": _embedded_command}[kind](folder, port)
    with (folder / "broker.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=folder)


def _mosquitto_command(folder: Path, port: int) -> list[str]:
    configuration = folder / "mosquitto.conf"
    configuration.write_text(
        f"listener {port} {_HOST}\nallow_anonymous true\npersistence false\nlog_dest stderr\n"
        + ("user root\n" if os.geteuid() == 0 else "")
    )
    return [find_mosquitto() or "mosquitto", "-c", str(configuration)]


def _embedded_command(_folder: Path, port: int) -> list[str]:
    return [sys.executable, "-c", _EMBEDDED, _HOST, str(port)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((_HOST, port))
        return True
    return False


def _await(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the process accepts connections before it ends or time is up."""
    return _within(_START_S, lambda: process.poll() is not None or _accepts(port)) and process.poll() is None


def _within(seconds: float, done: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(0.02)
    return False


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=0.5):
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_S)
    if process.stdin is not None:
        process.stdin.close()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
