"""What a tensor of a safetensors file is: name, element type, shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_errors import CallerError

__all__ = ["DTYPES", "MAX_HEADER_BYTES", "METADATA", "Array", "TensorError", "TensorSpec"]

MAX_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"

Array = np.ndarray[Any, np.dtype[Any]]

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

_MAX_DIMENSIONS = 32
_MAX_BYTES = 2**53


class TensorError(CallerError):
    """A tensor file that is malformed, or tensors that no such file can hold."""


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

    def check(self) -> TensorSpec:
        """Return the spec itself.

        Raises:
            TensorError: The name is reserved or not printable, the type unknown, or the shape impossible (a negative
                dimension, more than 32, or extents beyond 2^53 bytes even when another dimension is 0).
        """
        if self.name == METADATA or not self.name.isprintable() or not self.name:
            raise TensorError(f"{self.name[:200]!r} cannot name a tensor.", remedy="Use a printable name.")
        if self.dtype not in DTYPES:
            raise self._unknown(self.name, self.dtype)
        extent = math.prod(max(size, 1) for size in self.shape) * DTYPES[self.dtype].itemsize
        if len(self.shape) > _MAX_DIMENSIONS or min(self.shape, default=0) < 0 or extent > _MAX_BYTES:
            raise TensorError(
                f"The tensor {self.name[:200]!r} has an impossible shape.", remedy="Check its dimensions."
            )
        return self

    @staticmethod
    def _unknown(name: str, dtype: object) -> TensorError:
        return TensorError(
            f"The tensor {name[:200]!r} has elements of type {dtype}.", remedy=f"Use one of {', '.join(DTYPES)}."
        )

    @staticmethod
    def of(name: str, array: Array) -> TensorSpec:
        """Return the spec of an array.

        Raises:
            TensorError: The file format has no such element type.
        """
        for word, dtype in DTYPES.items():
            if word != "BF16" and dtype == array.dtype.newbyteorder("<"):
                return TensorSpec(name, word, array.shape)
        raise TensorSpec._unknown(name, array.dtype)
