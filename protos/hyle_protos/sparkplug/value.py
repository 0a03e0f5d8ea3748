"""Scalars of Sparkplug B metrics: to the field that the standard says for a type, and back."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from hyle_protos.sparkplug.sparkplug_b_pb2 import DataType, Payload

__all__ = ["Scalar", "parse_payload", "read_value", "write_value"]

Scalar = bool | int | float | str

_SIGNED_BITS = {DataType.Int8: 8, DataType.Int16: 16, DataType.Int32: 32, DataType.Int64: 64}
_INT = frozenset({DataType.Int8, DataType.Int16, DataType.Int32, DataType.UInt8, DataType.UInt16, DataType.UInt32})
_LONG = frozenset({DataType.Int64, DataType.UInt64, DataType.DateTime})
_TEXT = frozenset({DataType.String, DataType.Text, DataType.UUID})


def parse_payload(data: bytes) -> Payload | None:
    """Read a payload of any origin; None for bytes that are none."""
    try:
        return Payload.FromString(data)
    except (DecodeError, ValueError):
        return None


def write_value(metric: Payload.Metric, datatype: int, value: Scalar | None) -> None:
    """Set a metric's value, or its null mark for None.

    Args:
        metric: Changed in place; its datatype is left alone, because only births carry one.
        datatype: Number of the value's type.
        value: A value of that type.

    Raises:
        ValueError: The type is not a scalar's, or the value does not fit it.
    """
    if value is None:
        metric.is_null = True
    elif datatype in _INT:
        metric.int_value = int(value) & 0xFFFF_FFFF if datatype in _SIGNED_BITS else int(value)
    elif datatype in _LONG:
        metric.long_value = int(value) & 0xFFFF_FFFF_FFFF_FFFF if datatype in _SIGNED_BITS else int(value)
    elif datatype == DataType.Double:
        metric.double_value = float(value)
    elif datatype == DataType.Float:
        metric.float_value = float(value)
    elif datatype == DataType.Boolean:
        metric.boolean_value = bool(value)
    elif datatype in _TEXT:
        metric.string_value = str(value)
    else:
        raise ValueError(f"Sparkplug type {datatype} is not a scalar's.")


def read_value(metric: Payload.Metric, datatype: int) -> Scalar | None:
    """The value of a metric as a Python scalar; None for null and for what is no scalar.

    Args:
        metric: As it arrived; the field that is set decides, so that a neighbour's habit of sending a UInt32 as
            `long_value` reads the same.
        datatype: Type from the birth; needed only for the sign of integers.

    Returns:
        The value, signed integers with their sign.
    """
    field = metric.WhichOneof("value")
    if metric.is_null or field is None or field in {"bytes_value", "dataset_value", "template_value"}:
        return None
    value: Scalar = getattr(metric, field)
    bits = _SIGNED_BITS.get(datatype)
    if bits is None or not isinstance(value, int) or isinstance(value, bool):
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
