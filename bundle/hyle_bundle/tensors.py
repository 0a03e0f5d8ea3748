"""Safetensors files: a streaming writer that says where each tensor lies, and a strict reader that copies nothing.

Source: the safetensors format, version 0.4 and later: 8 bytes of header length, a JSON header, the data without holes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
import numpy as np
from hyle_errors import CallerError

from hyle_bundle.atomic import replacing

__all__ = [
    "DTYPES",
    "MAX_HEADER_BYTES",
    "TensorData",
    "TensorError",
    "TensorFile",
    "TensorSpec",
    "tensor_layout",
    "write_tensors",
]

ALIGNMENT = 64
MAX_HEADER_BYTES = 100_000_000

DType = Literal["BOOL", "I8", "U8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "I64", "U64", "F64"]
Array = np.ndarray[Any, np.dtype[Any]]
TensorData = Array | Iterable[bytes | bytearray | memoryview] | Callable[[], Array]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "I8": np.dtype("<i1"),
    "U8": np.dtype("<u1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F64": np.dtype("<f8"),
}

_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")
_Dimension = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class TensorError(CallerError):
    """A tensor file that is malformed, or tensors that no such file can hold."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: DType
    shape: Annotated[tuple[_Dimension, ...], msgspec.Meta(max_length=32)]
    data_offsets: tuple[_Dimension, _Dimension]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor is, without its data.

    Attributes:
        name: Its key in the file.
        dtype: Safetensors' word, a key of `DTYPES`.
        shape: Its dimensions.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @staticmethod
    def of(name: str, array: Array) -> TensorSpec:
        """Return the spec of an array.

        Raises:
            TensorError: The file format has no such element type.
        """
        for word, dtype in DTYPES.items():
            if word != "BF16" and dtype == array.dtype.newbyteorder("<"):
                return TensorSpec(name, word, array.shape)
        raise _refusal(f"The tensor {name!r} has elements of type {array.dtype}", f"Use one of {', '.join(DTYPES)}.")


def tensor_layout(specs: Iterable[TensorSpec]) -> dict[str, tuple[int, int]]:
    """Return where `write_tensors` puts each tensor: offset in the file and bytes, by name, in the file's order.

    Raises:
        TensorError: A name occurs twice or is reserved, or a type or shape is impossible.
    """
    return _plan(list(specs))[1]


def write_tensors(path: Path, tensors: Iterable[tuple[TensorSpec, TensorData]]) -> dict[str, tuple[int, int]]:
    """Write a safetensors file, whole or not at all, holding no more than one tensor in memory.

    Tensors stand by element size, largest first, then by name; data begins at a multiple of 64 bytes.

    Args:
        path: The target; an older file is replaced in one step at the end.
        tensors: Specs with their data: an array, an iterable of byte chunks (little-endian, C order), or a function
            that returns the array when its turn comes.

    Returns:
        Offset in the file and bytes by name, as `tensor_layout` gives.

    Raises:
        TensorError: The specs are impossible, or data does not agree with its spec.
        OutputError: The target cannot be written.
    """
    pairs = list(tensors)
    header, layout = _plan([spec for spec, _ in pairs])
    by_name = {spec.name: (spec, data) for spec, data in pairs}
    with replacing(path) as file:
        file.write(header)
        for name in layout:
            _write_data(file, *by_name[name])
    return layout


def _plan(specs: Sequence[TensorSpec]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    records, spans, position = {}, {}, 0
    for spec in sorted(map(_checked, specs), key=lambda spec: (-DTYPES[spec.dtype].itemsize, spec.name)):
        if spec.name in records:
            raise _refusal(f"The tensor {spec.name!r} occurs twice", "Give each tensor a name of its own.")
        records[spec.name] = {
            "dtype": spec.dtype,
            "shape": spec.shape,
            "data_offsets": (position, position + spec.nbytes),
        }
        spans[spec.name] = (position, spec.nbytes)
        position += spec.nbytes
    text = msgspec.json.encode(records)
    text += b" " * (-(_LENGTH.size + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise _refusal(f"The tensor file's header has more than {MAX_HEADER_BYTES} bytes", "Use fewer tensors.")
    begin = _LENGTH.size + len(text)
    return _LENGTH.pack(len(text)) + text, {name: (begin + at, size) for name, (at, size) in spans.items()}


def _checked(spec: TensorSpec) -> TensorSpec:
    if spec.name == _METADATA or not spec.name.isprintable() or not spec.name:
        raise _refusal(f"{spec.name!r} cannot name a tensor", "Use a printable name.")
    if spec.dtype not in DTYPES:
        raise _refusal(
            f"The tensor {spec.name!r} has elements of type {spec.dtype}", f"Use one of {', '.join(DTYPES)}."
        )
    if len(spec.shape) > 32 or any(not 0 <= size <= 2**53 for size in spec.shape) or spec.nbytes > 2**53:
        raise _refusal(f"The tensor {spec.name!r} has the impossible shape {spec.shape}", "Check its dimensions.")
    return spec


def _write_data(file: BinaryIO, spec: TensorSpec, data: TensorData) -> None:
    written = 0
    for chunk in _pieces(spec, data() if callable(data) else data):
        written += len(chunk)
        if written > spec.nbytes:
            break
        file.write(chunk)
    if written != spec.nbytes:
        raise _refusal(
            f"The tensor {spec.name!r} has not the {spec.nbytes} bytes of its shape", "Check data and shape."
        )


def _pieces(spec: TensorSpec, data: Array | Iterable[bytes | bytearray | memoryview]) -> Iterable[memoryview]:
    if not isinstance(data, np.ndarray):
        return (memoryview(chunk).cast("B") for chunk in data if len(chunk))
    wanted = DTYPES[spec.dtype]
    if data.shape != spec.shape or data.dtype.newbyteorder("<") != wanted:
        raise _refusal(
            f"The tensor {spec.name!r} is {data.dtype} {data.shape}, not {spec.dtype} {spec.shape}",
            "Check data and shape.",
        )
    flat = np.ascontiguousarray(data, dtype=wanted).reshape(-1)
    return [flat.view(np.uint8).data] if flat.size else []


class TensorFile:
    """A safetensors file in memory, read without copying; nothing in it is believed before it is checked.

    Args:
        buffer: The whole file.

    Raises:
        TensorError: The header is too long or malformed, or tensors overlap, leave holes, lie outside or are not as
            large as their shapes say.
    """

    def __init__(self, buffer: memoryview | bytes) -> None:
        self._buffer = memoryview(buffer).cast("B").toreadonly()
        self._begin, self._records = _read_header(self._buffer)
        _check_extents(self._records, len(self._buffer) - self._begin)

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor, in the order of the data."""
        return tuple(self._records)

    def spec(self, name: str) -> TensorSpec:
        """Return what a tensor is.

        Raises:
            TensorError: There is none of this name.
        """
        record = self._record(name)
        return TensorSpec(name, record.dtype, record.shape)

    def offset(self, name: str) -> int:
        """Return where a tensor's data begins, in bytes from the start of the file.

        Raises:
            TensorError: There is none of this name.
        """
        return self._begin + self._record(name).data_offsets[0]

    def array(self, name: str) -> Array:
        """Return a tensor, read-only and not copied; BF16 comes as its 16-bit patterns (uint16).

        Raises:
            TensorError: There is none of this name.
        """
        record = self._record(name)
        start, stop = (self._begin + at for at in record.data_offsets)
        return np.frombuffer(self._buffer[start:stop], dtype=DTYPES[record.dtype]).reshape(record.shape)

    def _record(self, name: str) -> _Record:
        if name not in self._records:
            raise _refusal(f"There is no tensor {name!r}", "Compile the bundle again.")
        return self._records[name]


def _read_header(buffer: memoryview) -> tuple[int, dict[str, _Record]]:
    if len(buffer) < _LENGTH.size:
        raise _malformed("it is shorter than its header length")
    (length,) = _LENGTH.unpack_from(buffer)
    if length > min(MAX_HEADER_BYTES, len(buffer) - _LENGTH.size):
        raise _malformed(f"its header claims {length} bytes")
    text = bytes(buffer[_LENGTH.size : _LENGTH.size + length])
    try:
        plain = json.loads(text, object_pairs_hook=_without_twins)
        plain.pop(_METADATA, None)
        records = msgspec.convert(plain, dict[str, _Record])
    except (ValueError, RecursionError, AttributeError) as error:
        raise _malformed(f"its header is {str(error)[:200]}") from error
    ordered = sorted(records.items(), key=lambda item: item[1].data_offsets)
    return _LENGTH.size + length, dict(ordered)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("naming a key twice")
    return found


def _check_extents(records: Mapping[str, _Record], size: int) -> None:
    position = 0
    for name, record in records.items():
        start, stop = record.data_offsets
        if start != position or stop < start:
            raise _malformed(f"{name[:200]!r} overlaps another tensor or leaves a hole")
        if TensorSpec(name, record.dtype, record.shape).nbytes != stop - start:
            raise _malformed(f"{name[:200]!r} is not as large as its shape says")
        position = stop
    if position != size:
        raise _malformed(f"its tensors have {position} bytes, its data {size}")


def _malformed(reason: str) -> TensorError:
    return _refusal(f"The tensor file is malformed: {reason}", "Fetch the bundle again or compile it again.")


def _refusal(message: str, remedy: str) -> TensorError:
    return TensorError(f"{message}.", remedy=remedy)
