"""The driver contract: what attached hardware, or its twin, must be able to do.

The line between digital and physical is integer codes: a driver takes DAC codes and returns ADC codes.
Scales, offsets, signed encodings and the sums over tiles are the host's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from hyle_errors import InternalError

from hyle_substrates.profile import Profile

__all__ = [
    "BadAnswerError",
    "BlackBox",
    "BlackBoxInfo",
    "Device",
    "DeviceAwayError",
    "DeviceError",
    "DeviceTimeoutError",
    "Driver",
    "LeaseLostError",
    "NotANumberError",
    "ProgramReport",
    "SimulatedMatter",
    "WrongDeviceError",
]

Codes = np.ndarray[Any, np.dtype[np.int32]]
Weights = np.ndarray[Any, np.dtype[np.float32]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


class DeviceError(InternalError):
    """The device did not do what it was asked; `fault` is the fault's name, for status and telemetry."""

    fault = "refused"


class DeviceAwayError(DeviceError):
    """The device does not answer now: it is unplugged, off, or slow. The same call may succeed once it is back."""

    fault = "unplugged"


class DeviceTimeoutError(DeviceAwayError):
    """The device did not answer in time."""

    fault = "timeout"


class WrongDeviceError(DeviceError):
    """Another device answers where the one that was opened had been."""

    fault = "wrong device"


class BadAnswerError(DeviceError):
    """The device answered what no ADC can say: NaN, a code out of range, a wrong shape, or noise on the line."""

    fault = "bad answer"


class NotANumberError(BadAnswerError):
    """The device answered NaN or infinity."""

    fault = "not a number"


class LeaseLostError(DeviceError):
    """Who lent the device has taken it back."""

    fault = "lease lost"


@dataclass(frozen=True, slots=True)
class Device:
    """What a driver says of the device it owns.

    Attributes:
        identity: Stable identity of the very device (a serial number; for a twin its seed).
        profile: The constraint sheet it keeps to.
        tiles: Number of tiles that can be programmed.
        simulated: Whether this is a digital twin.
        health: Live readings by name, scalars only (temperature_c, age_s, …).
        fault: What is wrong with it, by the name of the `DeviceError` that said so; "" for nothing.
    """

    identity: str
    profile: Profile
    tiles: int
    simulated: bool
    health: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ProgramReport:
    """What programming one tile reached.

    Attributes:
        tile: The tile's index on the device.
        residual: Root-mean-square of (reached - target) over the weight range's maximum, or NaN if not measured.
        seconds: Time the programming took (for a twin, that it would take on the device).
    """

    tile: int
    residual: float
    seconds: float


class Driver(Protocol):
    """One device, owned by one thread. Small enough for a laboratory to write in an afternoon."""

    def describe(self) -> Device:
        """Return identity, profile, number of tiles and live health."""
        ...

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write one tile.

        Args:
            tile: Index of the tile, 0 ≤ tile < `describe().tiles`.
            targets: Integer levels, rows by columns, from -levels to levels of the profile.

        Raises:
            DeviceError: The device refused or did not answer.
        """
        ...

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Drive tiles that share their rows and read their columns; the only hot call.

        Args:
            tiles: Programmed tiles, all with the same number of rows.
            codes: DAC codes, batch by rows, from -dac.levels to dac.levels.

        Returns:
            ADC codes, batch by the columns of all `tiles` in order, from -adc.levels to adc.levels.

        Raises:
            DeviceError: The device did not answer, or answered what no ADC can say.
        """
        ...

    def close(self) -> None:
        """Give the device back; the object is not used again."""
        ...


@runtime_checkable
class SimulatedMatter(Protocol):
    """What a twin offers beyond `Driver`, so that its graph may run whole in onnxruntime."""

    def weights(self, tile: int) -> Weights:
        """Return a tile's effective weights now, rows by columns, in units of one level."""
        ...

    def advance(self, age_s: float) -> None:
        """Let the matter be `age_s` seconds old, counted from the end of programming."""
        ...


@dataclass(frozen=True, slots=True)
class BlackBoxInfo:
    """What a black box says of itself.

    Attributes:
        identity: Stable identity of the very device.
        parameters: Number p of trainable parameters that it takes beside its inputs; may be 0.
        inputs: Number n of inputs.
        outputs: Number m of outputs.
        low: Smallest input and parameter that it takes; those of all share one range.
        high: Largest input and parameter, > `low`.
        simulated: Whether it is made of numbers.
        health: Live readings by name, scalars only; `connected` is 1 while it answers and 0 while it does not.
        fault: What is wrong with it, by the name of the `DeviceError` that said so; "" for nothing.
    """

    identity: str
    parameters: int
    inputs: int
    outputs: int
    low: float = -1.0
    high: float = 1.0
    simulated: bool = False
    health: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""


@runtime_checkable
class BlackBox(Protocol):
    """Matter whose physics is not a matrix product; owned by one thread like a `Driver`."""

    def describe(self) -> BlackBoxInfo:
        """Return identity, sizes, range and live health; never raises once the device was opened."""
        ...

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        """Drive the matter and read it; every sample begins from the same state.

        Args:
            parameters: Batch by p, from `low` to `high`.
            inputs: Batch by n, from `low` to `high`.

        Returns:
            Readings, batch by m.

        Raises:
            CallerError: A value is not finite or out of range, or a shape is not as described.
            DeviceError: The device did not answer, or lost samples and could not be made to repeat them.
        """
        ...

    def close(self) -> None:
        """Give the device back; the object is not used again."""
        ...
