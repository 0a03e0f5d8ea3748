"""A strict reader of safetensors files that copies nothing.

Source: the safetensors format: 8 bytes of header length, a JSON header that begins with a brace, data without holes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from hyle_bundle.tensor_spec import DTYPES, MAX_HEADER_BYTES, METADATA, Array, TensorError, TensorSpec

__all__ = ["TensorFile"]

_LENGTH = struct.Struct("<Q")
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[_Number, ...]
    data_offsets: tuple[_Number, _Number]


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
            raise TensorError(f"There is no tensor {name!r}.", remedy="Compile the bundle again.")
        return self._records[name]


def _read_header(buffer: memoryview) -> tuple[int, dict[str, _Record]]:
    if len(buffer) < _LENGTH.size:
        raise _malformed("it is shorter than its header length")
    (length,) = _LENGTH.unpack_from(buffer)
    if length > min(MAX_HEADER_BYTES, len(buffer) - _LENGTH.size):
        raise _malformed(f"its header claims {length} bytes")
    records = _parse(bytes(buffer[_LENGTH.size : _LENGTH.size + length]))
    return _LENGTH.size + length, dict(sorted(records.items(), key=lambda item: item[1].data_offsets))


def _parse(header: bytes) -> dict[str, _Record]:
    if not header.startswith(b"{"):
        raise _malformed("its header is no JSON object")
    try:
        plain = json.loads(header.decode("utf-8"), object_pairs_hook=_without_twins)
        msgspec.convert(plain.pop(METADATA, {}), dict[str, str])
        return msgspec.convert(plain, dict[str, _Record])
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise _malformed(f"its header cannot be read: {str(error)[:200]}") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _check_extents(records: Mapping[str, _Record], size: int) -> None:
    position = 0
    for name, record in records.items():
        start, stop = record.data_offsets
        if start != position or stop < start:
            raise _malformed(f"{name[:200]!r} overlaps another tensor or leaves a hole")
        if TensorSpec(name, record.dtype, record.shape).check().nbytes != stop - start:
            raise _malformed(f"{name[:200]!r} is not as large as its shape says")
        position = stop
    if position != size:
        raise _malformed(f"its tensors have {position} bytes, its data {size}")


def _malformed(reason: str) -> TensorError:
    return TensorError(f"The tensor file is malformed: {reason}.", remedy="Fetch the bundle again or compile it again.")
