"""Microcontroller boards on a serial port, by a line protocol that any of them can speak (`docs/drivers/serial.md`).

A request is `NUMBER VERB WORDS… *CHECK` and its answer `NUMBER OK WORDS… *CHECK` or `NUMBER ERR TEXT *CHECK`, one line
each in ASCII; CHECK is the exclusive or of all bytes before ` *`, two hexadecimal digits. NUMBER ties the two together,
so that no late answer is taken for another's.
"""

from __future__ import annotations

import math
import os
import termios
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from hyle_errors import CallerError
from hyle_substrates.attached import AttachedDriver
from hyle_substrates.claim import Claim
from hyle_substrates.driver import BadAnswerError, Codes, Device, DeviceError, ProgramReport
from hyle_substrates.profile import Profile, load_profile

from hyle_agent.drivers.options import Options, needs

__all__ = ["connect"]


class _Link:
    def __init__(self, port: str, baud: int, timeout_s: float, profile: Profile) -> None:
        serial = needs("serial", "pyserial")
        self._claim = Claim(os.path.realpath(port))
        self._timeout_s, self._profile = timeout_s, profile
        self._number = int.from_bytes(os.urandom(2), "big")
        self._port: Any = None
        self._pending = bytearray()
        try:
            self._port = serial.Serial(port, baud, timeout=0.05, write_timeout=timeout_s, exclusive=True)
            self._greet()
            self._identity, *sizes = self._ask("HELLO", 4)
            self._tiles, rows, cols = map(int, sizes)
        except BaseException:
            self.close()
            raise
        if (rows, cols) != (profile.array.rows, profile.array.cols):
            self.close()
            raise DeviceError(
                f"The board has tiles of {rows} x {cols}; {profile.name} says "
                f"{profile.array.rows} x {profile.array.cols}.",
                remedy="Give the board's own profile.",
            )

    def describe(self) -> Device:
        words = self._ask("HEALTH")
        health = {name: float(value) for name, _, value in (word.partition("=") for word in words)}
        return Device(self._identity, self._profile, self._tiles, False, health)

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write row by row, then read every row back; what differs is a fault of the line, not of the matter."""
        started = time.monotonic()
        self._ask(f"TILE {tile} {targets.shape[0]} {targets.shape[1]}", 0)
        for row, values in enumerate(targets):
            self._ask(f"ROW {tile} {row} {_words(values)}", 0)
        reached = np.array([self._integers(f"READ {tile} {row}", targets.shape[1]) for row in range(len(targets))])
        error = (reached - targets) * self._profile.weight_unit
        residual = float(np.sqrt(np.mean(error**2))) if targets.size else math.nan
        return ProgramReport(tile, residual, time.monotonic() - started)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        names = ",".join(str(tile) for tile in tiles)
        answers = [self._integers(f"APPLY {names} {_words(row)}", None) for row in codes]
        try:
            return np.array(answers, dtype=np.int32)
        except ValueError as error:
            raise BadAnswerError("Answers of several lengths.", remedy="Check the board's firmware.") from error

    def close(self) -> None:
        if self._port is not None:
            self._port.close()
        self._claim.release()

    def _greet(self) -> None:
        """Wait for a board that restarts when its port is opened, and drop what it said before."""
        until = time.monotonic() + self._timeout_s
        while True:
            self._pending.clear()
            try:
                self._port.reset_input_buffer()
                self._ask("HELLO", 4, min(1.0, self._timeout_s))
            except (TimeoutError, DeviceError):
                if time.monotonic() >= until:
                    raise
            except termios.error as error:
                raise ConnectionError("the port hung up") from error
            else:
                return

    def _integers(self, words: str, count: int | None) -> list[int]:
        try:
            return [int(word) for word in self._ask(words, count)]
        except ValueError as error:
            raise BadAnswerError("The board sent what is no number.", remedy="Check its firmware.") from error

    def _ask(self, words: str, count: int | None = None, timeout_s: float | None = None) -> list[str]:
        self._number = (self._number + 1) % 10000
        body = f"{self._number} {words}"
        self._port.write(f"{body} *{_check(body.encode())}\n".encode())
        until = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        while True:
            head, *rest = self._line(until)
            if head == str(self._number):
                break
        if not rest or rest[0] != "OK":
            raise DeviceError(f"The board refused: {' '.join(rest)[:200]}", remedy="See docs/drivers/serial.md.")
        if count is not None and len(rest) - 1 != count:
            raise BadAnswerError(f"The board sent {len(rest) - 1} words, not {count}.", remedy="Check its firmware.")
        return rest[1:]

    def _line(self, until: float) -> list[str]:
        while b"\n" not in self._pending:
            if time.monotonic() >= until:
                raise TimeoutError(f"no answer in {self._timeout_s} s")
            self._pending += self._port.read(max(1, self._port.in_waiting))
        line, _, rest = bytes(self._pending).partition(b"\n")
        self._pending = bytearray(rest)
        body, _, check = line.strip().rpartition(b" *")
        if not body or check.decode("ascii", "replace") != _check(body):
            raise BadAnswerError("A line came damaged.", remedy="Use a shorter cable or a lower baud rate.")
        return body.decode("ascii", "replace").split()


def _check(body: bytes) -> str:
    return f"{reduce(lambda seen, byte: seen ^ byte, body, 0):02X}"


def _words(values: Codes) -> str:
    return " ".join(str(int(value)) for value in values)


def connect(options: Mapping[str, str]) -> AttachedDriver:
    """Open a board.

    Args:
        options: `port` (such as /dev/ttyACM0), `profile` (its constraint sheet, name or .toml file), and optionally
            `baud` (115200) and `timeout_s` (5).

    Raises:
        CallerError: An option is missing, unknown or wrong.
        DeviceError: The board does not answer, or has an owner.
    """
    given = Options("serial", options, required=("port", "profile"), optional=("baud", "timeout_s"))
    baud, timeout_s = given.integer("baud", 115200, 1), given.number("timeout_s", 5.0)
    profile = load_profile(options["profile"])
    if not (profile.weights.levels and profile.dac.levels and profile.adc.levels):
        raise CallerError("A serial board speaks in integers.", remedy="Give a profile with levels throughout.")
    return AttachedDriver(lambda: _Link(options["port"], baud, timeout_s, profile))
