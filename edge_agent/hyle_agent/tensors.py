"""Bytes and typed contents to arrays and back; every refusal names the input, what was expected and what was got."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from hyle_bundle.manifest import TensorInfo

from hyle_agent.datatypes import BYTES, DATATYPES, Datatype, datatype
from hyle_agent.errors import RequestError
from hyle_agent.program import Array

__all__ = ["decode_raw", "decode_typed", "encode", "refused"]


def refused(name: str, field: str, expected: object, got: object) -> RequestError:
    """Return the refusal of one input: which field, what was expected, what was got."""
    message = f"Input {name[:128]!r}: {field}: expected {expected}, got {got}."
    return RequestError(message, remedy="See ModelMetadata for what the model takes.")


def decode_raw(info: TensorInfo, shape: tuple[int, ...], data: bytes) -> Array:
    """Read row-major little-endian bytes; each BYTES element has its length before it, four bytes.

    Raises:
        RequestError: There are not as many bytes as the shape says, or a value is not finite.
    """
    kind = datatype(info.datatype)
    if kind.name == BYTES:
        return _shaped(info, shape, _elements(info.name, data), "raw_input_contents")
    expected = math.prod(shape) * kind.element.itemsize
    if len(data) != expected:
        wanted = f"{expected} bytes for {kind.name} {list(shape)}"
        raise refused(info.name, "raw_input_contents", wanted, f"{len(data)} bytes")
    if kind.name == "BOOL" and data.strip(b"\0\1"):
        raise refused(info.name, "raw_input_contents", "bytes 0 or 1 for BOOL", "another byte")
    values: Array = np.frombuffer(data, kind.element).reshape(shape)
    return _finite(info.name, "raw_input_contents", kind, values)


def decode_typed(info: TensorInfo, shape: tuple[int, ...], contents: Any) -> Array:
    """Read typed contents.

    Args:
        info: The model's input.
        shape: The request's shape, already checked against it.
        contents: An `InferTensorContents`.

    Raises:
        RequestError: Another field than the datatype's is set, the count is wrong, or a value is out of range.
    """
    kind = datatype(info.datatype)
    filled = [field.name for field, _ in contents.ListFields()]
    if not kind.field:
        raise refused(info.name, "contents", f"raw_input_contents for {kind.name}", "typed contents")
    if any(name != kind.field for name in filled):
        raise refused(info.name, "contents", kind.field, " and ".join(filled))
    values: Sequence[Any] = getattr(contents, kind.field)
    if kind.name == BYTES:
        return _shaped(info, shape, list(values), kind.field)
    if len(values) != math.prod(shape):
        raise refused(info.name, kind.field, f"{math.prod(shape)} elements for shape {list(shape)}", f"{len(values)}")
    wide = np.asarray(values, dtype=_wide(kind))
    narrow: Array = wide.astype(kind.element, copy=False)
    if kind.element.kind in "iu" and not np.array_equal(narrow, wide):
        raise refused(info.name, kind.field, f"values that {kind.name} can hold", "a value out of its range")
    return _finite(info.name, kind.field, kind, narrow.reshape(shape))


def encode(values: Array, name: str) -> bytes:
    """Return an output's raw contents: row-major, little-endian."""
    kind = DATATYPES[name]
    if kind.name != BYTES:
        return (values if values.dtype == kind.element else values.astype(kind.element)).tobytes()
    parts = [item if isinstance(item, bytes) else str(item).encode() for item in np.asarray(values).ravel().tolist()]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def _wide(kind: Datatype) -> Any:
    return {"i": np.int64, "u": np.uint64}.get(kind.element.kind, kind.element)


def _elements(name: str, data: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(data):
        head = data[at : at + 4]
        size = int.from_bytes(head, "little")
        if len(head) < 4 or at + 4 + size > len(data):
            left = max(len(data) - at - 4, 0)
            raise refused(name, "raw_input_contents", f"an element of {size} bytes at byte {at}", f"{left} bytes")
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return parts


def _shaped(info: TensorInfo, shape: tuple[int, ...], parts: list[bytes], field: str) -> Array:
    if len(parts) != math.prod(shape):
        raise refused(info.name, field, f"{math.prod(shape)} elements for shape {list(shape)}", f"{len(parts)}")
    values = np.empty(len(parts), dtype=object)
    values[:] = parts
    return values.reshape(shape)


def _finite(name: str, field: str, kind: Datatype, values: Array) -> Array:
    if kind.is_float and not np.isfinite(values).all():
        raise refused(name, field, "finite values", "NaN or infinity")
    return values
