"""Instruments by SCPI over VISA: a waveform generator drives the matter, a digitiser reads it (Red Pitaya class).

Every sample is one waveform: zeros to settle, then each parameter and each input held for `hold` points. The digitiser
takes as many points as were driven, from the same trigger; output j is the mean of the j-th part of what it took.
Waveforms travel as IEEE 488.2 definite-length blocks of little-endian single precision.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_errors import CallerError
from hyle_substrates.attached_black_box import AttachedBlackBox
from hyle_substrates.claim import Claim
from hyle_substrates.driver import (
    BlackBoxInfo,
    DeviceAwayError,
    DeviceError,
    DeviceTimeoutError,
    Floats,
    WrongDeviceError,
)

from hyle_agent.drivers.options import Options, needs

__all__ = ["Dialect", "Wiring", "connect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The commands of one maker; docs/drivers/visa.md lists some.

    Attributes:
        prepare: Sent once after opening, commands joined by `;:`; "" for none.
        drive: Takes a block: the waveform to play.
        start: Plays it once and arms the digitiser with it; "" if `drive` does so already.
        read: Query that returns the block of what the digitiser took.
        error: Query of the error queue, whose answer begins with 0 when it is empty.
    """

    prepare: str = ""
    drive: str = "SOUR1:TRAC:DATA:DATA"
    start: str = "INIT:IMM"
    read: str = "ACQ:SOUR1:DATA?"
    error: str = "SYST:ERR?"


@dataclass(frozen=True, slots=True)
class Wiring:
    """How values become a waveform, and a waveform values: counts of values, and points (`hold`, `settle`) of each."""

    parameters: int
    inputs: int
    outputs: int
    hold: int
    settle: int

    def waveform(self, values: Floats) -> Floats:
        """Return the waveform of one sample, points in full scales."""
        return np.concatenate([np.zeros(self.settle), np.repeat(values, self.hold)])

    def outcome(self, taken: Floats) -> Floats:
        """Return the outputs of one sample from the points after settling."""
        parts = np.array_split(taken[self.settle :], self.outputs)
        return np.array([float(part.mean()) for part in parts])


# VI_ERROR_TMO of the VISA specification (VPP-4.3).
_TIMED_OUT = -1073807339


class _Link:
    def __init__(self, address: str, timeout_s: float, dialect: Dialect, wiring: Wiring) -> None:
        pyvisa = needs("pyvisa", "PyVISA")
        needs("pyvisa_py", "PyVISA-py")
        self._claim = Claim(address)
        self._dialect, self._wiring, self._failures = dialect, wiring, pyvisa.errors.Error
        self._instrument: Any = None
        try:
            self._instrument = self._guarded(lambda: _open(pyvisa, address, timeout_s))
            self._identity = self._query("*IDN?")
            if dialect.prepare:
                self._guarded(lambda: self._instrument.write(dialect.prepare))
            self._query_error()
        except BaseException:
            self.close()
            raise

    def describe(self) -> BlackBoxInfo:
        if self._query("*IDN?") != self._identity:
            raise WrongDeviceError(
                "Another instrument answers.", remedy="Attach the one that was there, or start again."
            )
        w = self._wiring
        return BlackBoxInfo(self._identity, w.parameters, w.inputs, w.outputs)

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        samples = np.concatenate([parameters, inputs], axis=1)
        answers = [self._wiring.outcome(self._exchange(self._wiring.waveform(sample))) for sample in samples]
        self._query_error()
        return np.array(answers, dtype=np.float64).reshape(len(samples), self._wiring.outputs)

    def close(self) -> None:
        if self._instrument is not None:
            with contextlib.suppress(self._failures, OSError):
                self._instrument.close()
        self._claim.release()

    def _exchange(self, waveform: Floats) -> Floats:
        def talk() -> Any:
            self._instrument.write_binary_values(f"{self._dialect.drive} ", waveform.astype("<f4"), datatype="f")
            if self._dialect.start:
                self._instrument.write(self._dialect.start)
            return self._instrument.query_binary_values(self._dialect.read, datatype="f", container=np.array)

        taken = np.asarray(self._guarded(talk), dtype=np.float64)
        if taken.shape != waveform.shape:
            raise DeviceError(
                f"The digitiser took {taken.size} points, not {waveform.size}.",
                remedy="Give it and the generator one sample rate and one trigger.",
            )
        return taken

    def _query(self, command: str) -> str:
        return str(self._guarded(lambda: self._instrument.query(command))).strip()

    def _query_error(self) -> None:
        if self._dialect.error and not (said := self._query(self._dialect.error)).lstrip("+").startswith("0"):
            raise DeviceError(f"The instrument reports {said[:200]}.", remedy="Check the commands in docs/drivers.")

    def _guarded(self, talk: Any) -> Any:
        try:
            return talk()
        except self._failures as error:
            late = getattr(error, "error_code", 0) == _TIMED_OUT
            kind = DeviceTimeoutError if late else DeviceAwayError
            message = f"The instrument does not answer: {str(error)[:200]}"
            raise kind(message, remedy="Check its power, cable and address.") from error


def _open(pyvisa: Any, address: str, timeout_s: float) -> Any:
    manager = pyvisa.ResourceManager("@py")
    instrument = manager.open_resource(address, open_timeout=int(timeout_s * 1000))
    instrument.timeout = timeout_s * 1000
    instrument.read_termination = instrument.write_termination = "\n"
    wire = getattr(instrument.visalib.sessions[instrument.session], "interface", None)
    if isinstance(wire, socket.socket):
        # PyVISA-py refuses VI_ATTR_TCPIP_NODELAY; without it every query waits 40 ms for an acknowledgement.
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return instrument


def connect(options: Mapping[str, str]) -> AttachedBlackBox:
    """Open an instrument.

    Args:
        options: `address` (a VISA resource such as TCPIP::10.0.0.7::5000::SOCKET); `inputs`, `outputs` and optionally
            `parameters` (0), counts of values; `hold` (8) and `settle` (32), points; `timeout_s` (5); and the
            instrument's commands `prepare`, `drive`, `start`, `read`, `error`.

    Raises:
        CallerError: An option is missing, unknown or wrong.
        DeviceError: The instrument does not answer, or has an owner.
    """
    commands = ("prepare", "drive", "start", "read", "error")
    given = Options(
        "visa",
        options,
        required=("address", "inputs", "outputs"),
        optional=("parameters", "hold", "settle", "timeout_s", *commands),
    )
    wiring = Wiring(
        given.integer("parameters", 0),
        given.integer("inputs", 1, 1),
        given.integer("outputs", 1, 1),
        given.integer("hold", 8, 1),
        given.integer("settle", 32),
    )
    dialect = Dialect(**{name: options[name] for name in commands if name in options})
    timeout_s = given.number("timeout_s", 5.0)
    if wiring.outputs > (wiring.parameters + wiring.inputs) * wiring.hold:
        raise CallerError("There are more outputs than points.", remedy="Hold values longer, or read fewer outputs.")
    return AttachedBlackBox(lambda: _Link(options["address"], timeout_s, dialect, wiring))
