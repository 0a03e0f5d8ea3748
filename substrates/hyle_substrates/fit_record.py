"""What is known of a fitted twin of a black box; it travels as JSON in the metadata of the twin's ONNX file."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from hyle_errors import CallerError

__all__ = ["FORMAT", "KEY", "FitError", "FitRecord", "Interval", "decode_record", "encode_record"]

FORMAT = "hyle-fit/1"
KEY = "hyle.fit"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0)]


class FitError(CallerError):
    """A file that is no fitted twin, or a device that cannot be fitted."""


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure and its 95 % interval (bootstrap over samples)."""

    value: float
    low: float
    high: float


class FitRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who was fitted, how, and how well the twin predicts it.

    Attributes:
        format: `hyle-fit/1`.
        name: What a model calls this matter.
        driver: The driver's name.
        identity: Identity of the very device.
        simulated: Whether the device is made of numbers.
        parameters: Count of trainable parameters.
        inputs: Count of inputs.
        outputs: Count of readings.
        low: Smallest input and parameter.
        high: Largest input and parameter.
        seed: Seed of the drive.
        family: Kind of the twin that predicted best on samples kept for the choice.
        training: Samples the twin was fitted to.
        validation: Samples the family was chosen by.
        held_out: Samples that neither saw; all figures below are of these.
        correlation: Of prediction and reading, each without its output's mean, pooled over outputs.
        error: Root-mean-square of (prediction - reading) over that of the reading without its output's mean.
        repeatability: The same for a second reading of the same drive, over √2: what no twin can go below.
        drives: `error` by kind of drive.
        error_std: Root-mean-square error of each output, in readings, for the kind of drive where it is largest.
    """

    format: Literal["hyle-fit/1"]
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}\Z")]
    driver: str
    identity: str
    simulated: bool
    parameters: Count
    inputs: Size
    outputs: Size
    low: float
    high: float
    seed: Count
    family: str
    training: Count
    validation: Count
    held_out: Count
    correlation: Interval
    error: Interval
    repeatability: NonNegative
    drives: dict[str, float]
    error_std: tuple[NonNegative, ...]


def encode_record(record: FitRecord) -> str:
    """Write it as JSON."""
    return msgspec.json.encode(record, order="sorted").decode()


def decode_record(text: str, origin: str) -> FitRecord:
    """Read it.

    Raises:
        FitError: It is not one.
    """
    try:
        record = msgspec.json.decode(text, type=FitRecord)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise FitError(f"{origin} is no fitted twin: {error}.", remedy="Make one with `hyle fit`.") from error
    if len(record.error_std) != record.outputs or not record.low < record.high:
        raise FitError(f"{origin} contradicts itself.", remedy="Make it anew with `hyle fit`.")
    return record
