"""Writing safetensors files tensor by tensor, and saying where each tensor lies.

Source: the safetensors format: 8 bytes of header length, a JSON header that begins with a brace, data without holes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from hyle_bundle.atomic import replacing
from hyle_bundle.tensor_file import TensorFile
from hyle_bundle.tensor_spec import DTYPES, MAX_HEADER_BYTES, Array, TensorError, TensorSpec

__all__ = [
    "DTYPES",
    "TensorData",
    "TensorError",
    "TensorFile",
    "TensorSpec",
    "plan_tensors",
    "tensor_layout",
    "write_tensors",
]

ALIGNMENT = 64

TensorData = Array | Iterable[bytes | bytearray | memoryview] | Callable[[], Array]

_LENGTH = struct.Struct("<Q")


def tensor_layout(specs: Iterable[TensorSpec]) -> dict[str, tuple[int, int]]:
    """Return where `write_tensors` puts each tensor: offset in the file and bytes, by name, in the file's order.

    Raises:
        TensorError: A name occurs twice or is reserved, or a type or shape is impossible.
    """
    return plan_tensors(list(specs))[1]


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
    header, layout = plan_tensors([spec for spec, _ in pairs])
    by_name = {spec.name: (spec, data) for spec, data in pairs}
    with replacing(path) as file:
        file.write(header)
        for name in layout:
            _write_data(file, *by_name[name])
    return layout


def plan_tensors(specs: Sequence[TensorSpec]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return a file's header, and offset in the file and bytes of each tensor; errors as for `tensor_layout`."""
    records, spans, position = {}, {}, 0
    for spec in sorted((spec.check() for spec in specs), key=lambda spec: (-DTYPES[spec.dtype].itemsize, spec.name)):
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


def _refusal(message: str, remedy: str) -> TensorError:
    return TensorError(f"{message}.", remedy=remedy)
