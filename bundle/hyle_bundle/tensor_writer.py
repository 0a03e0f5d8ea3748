"""A safetensors file whose tensors are written in pieces and in any order, for what does not fit in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hyle_bundle.atomic import OutputError
from hyle_bundle.tensor_spec import DTYPES, Array, TensorError, TensorSpec
from hyle_bundle.tensors import plan_tensors

__all__ = ["TensorWriter"]


class TensorWriter:
    """Lays out a file at once and takes the tensors' data piece by piece; use it in a `with` statement.

    Unlike `write_tensors` it writes to the path itself: what an error leaves there is no tensor file.

    Args:
        path: The file to make.
        specs: What it will hold; the order of the file is that of `write_tensors`.

    Raises:
        TensorError: The specs are impossible; at the end, that a tensor was not written whole.
        OutputError: The file cannot be written, or the disk is full.
    """

    def __init__(self, path: Path, specs: Iterable[TensorSpec]) -> None:
        self._path = path
        self._specs = {spec.name: spec for spec in specs}
        header, self.layout = plan_tensors(list(self._specs.values()))
        self._missing = {name: spec.nbytes for name, spec in self._specs.items() if spec.nbytes}
        try:
            self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
            os.truncate(path, max((at + size for at, size in self.layout.values()), default=len(header)))
        except OSError as error:
            raise self._refusal(error) from error
        self._put(0, memoryview(header))

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's element type."""
        return DTYPES[self._specs[name].dtype]

    def write(self, name: str, array: Array, start: int = 0) -> None:
        """Write the part of a tensor that begins at its element `start` (C order); no part may be written twice.

        Raises:
            TensorError: There is no such tensor, the type differs, or the part leaves the tensor.
            OutputError: The disk is full.
        """
        spec = self._specs.get(name)
        if spec is None or array.dtype.newbyteorder("<") != DTYPES[spec.dtype]:
            raise TensorError(f"The tensor {name!r} is not of type {array.dtype}.", remedy="Check the specs.")
        begin, size = start * array.itemsize, array.nbytes
        if start < 0 or begin + size > spec.nbytes or size > self._missing.get(name, 0):
            raise TensorError(f"A part of {name!r} lies outside or is written twice.", remedy="Check the specs.")
        if not size:
            return
        flat = np.ascontiguousarray(array, dtype=DTYPES[spec.dtype]).reshape(-1)
        self._put(self.layout[name][0] + begin, flat.view(np.uint8).data)
        self._missing[name] -= size
        if not self._missing[name]:
            del self._missing[name]

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        if kind is None and self._missing:
            raise TensorError(f"{min(self._missing)!r} was not written whole.", remedy="Report this with the model.")

    def _put(self, offset: int, data: memoryview) -> None:
        try:
            while data:
                done = os.pwrite(self._file, data, offset)
                offset, data = offset + done, data[done:]
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> OutputError:
        reason = os.strerror(error.errno or errno.EIO)
        return OutputError(f"{self._path} cannot be written: {reason}.", remedy="Choose a disk with room.")
