"""Converters of the Linux Industrial I/O subsystem, here or on another machine with iiod, through pylibiio.

The context's voltage outputs are the device's inputs, and its voltage inputs are read. Every value sets one output
anywhere in its calibrated range; after `settle_s` every input is read in volts by its own scale and offset.

A write that was given up because the board did not answer may still be carried out when it does, once, amid the call
after: the protocol cannot take it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from hyle_errors import CallerError
from hyle_substrates.attached_black_box import AttachedBlackBox
from hyle_substrates.claim import Claim
from hyle_substrates.driver import BlackBoxInfo, DeviceError, Floats

from hyle_agent.drivers.options import Options, needs

__all__ = ["connect"]

T = TypeVar("T")


class _Link:
    def __init__(self, uri: str, parameters: int, low_v: float, high_v: float, settle_s: float) -> None:
        module = needs("iio", "pylibiio")
        self._claim = Claim(f"iio:{uri}")
        self._uri, self._parameters, self._settle_s = uri, parameters, settle_s
        try:
            self._context = _guarded(lambda: module.Context(uri))
            outputs, self._reads = self._discover()
            if len(outputs) < max(1, parameters) or not self._reads:
                raise DeviceError(
                    f"{uri} has {len(outputs)} voltage outputs and {len(self._reads)} voltage inputs.",
                    remedy="Check with `iio_info` that the converters are there.",
                )
            self._writes = outputs
            self._ranges = [_guarded(partial(_raw_range, channel, low_v, high_v)) for channel in outputs]
            self._scales = [_guarded(partial(_calibration, channel)) for channel in self._reads]
        except BaseException:
            self._claim.release()
            raise

    def describe(self) -> BlackBoxInfo:
        _guarded(lambda: self._reads[0].attrs["raw"].value)
        inputs = len(self._writes) - self._parameters
        return BlackBoxInfo(f"iio:{self._uri}", self._parameters, inputs, len(self._reads))

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        values = np.concatenate([parameters, inputs], axis=1)
        answers = [_guarded(partial(self._one, sample)) for sample in values]
        return np.array(answers, dtype=np.float64).reshape(len(values), len(self._reads))

    def close(self) -> None:
        self._claim.release()

    def _one(self, sample: Floats) -> list[float]:
        for channel, (low, high), value in zip(self._writes, self._ranges, sample, strict=True):
            channel.attrs["raw"].value = str(round(low + (high - low) * (float(value) + 1.0) / 2.0))
        time.sleep(self._settle_s)
        readings = zip(self._reads, self._scales, strict=True)
        return [(float(channel.attrs["raw"].value) + offset) * scale for channel, (scale, offset) in readings]

    def _discover(self) -> tuple[list[Any], list[Any]]:
        channels = [channel for device in self._context.devices for channel in device.channels]
        voltage = [c for c in channels if c.id.startswith(("voltage", "altvoltage")) and "raw" in c.attrs]
        return [c for c in voltage if c.output], [c for c in voltage if not c.output]


def _calibration(channel: Any) -> tuple[float, float]:
    """Return volts a step, and the steps to add first; the kernel's scale is in millivolts."""
    offset = float(channel.attrs["offset"].value) if "offset" in channel.attrs else 0.0
    return float(channel.attrs["scale"].value) / 1000.0, offset


def _raw_range(channel: Any, low_v: float, high_v: float) -> tuple[float, float]:
    scale, offset = _calibration(channel)
    return low_v / scale - offset, high_v / scale - offset


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except (OSError, KeyError, ValueError) as error:
        raise DeviceError(f"The converters do not answer: {error}.", remedy="Check with `iio_info`.") from error


def connect(options: Mapping[str, str]) -> AttachedBlackBox:
    """Open a context.

    Args:
        options: `high_v` and optionally `low_v` (0), volts that the values 1 and -1 stand for; `uri` (local:, or
            ip:HOST), `parameters` (0: how many of the outputs are parameters), `settle_s` (0.001).

    Raises:
        CallerError: An option is missing, unknown or wrong, or pylibiio or libiio is not installed.
        DeviceError: There is no context, or it has no converters.
    """
    optional = ("uri", "low_v", "parameters", "settle_s")
    given = Options("iio", options, required=("high_v",), optional=optional)
    low_v, high_v = given.number("low_v", 0.0, -1e3, 1e3), given.number("high_v", 1.0, -1e3, 1e3)
    if low_v >= high_v:
        raise CallerError("The iio driver's low_v is not below high_v.", remedy="Give the range of the outputs.")
    parameters, settle_s = given.integer("parameters", 0), given.number("settle_s", 0.001)
    uri = options.get("uri", "local:")
    return AttachedBlackBox(lambda: _Link(uri, parameters, low_v, high_v, settle_s))
