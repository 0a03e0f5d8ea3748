"""Matrices that stay where the model keeps them and are read a few rows at a time."""

from __future__ import annotations

import math
import mmap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.errors import ModelError

__all__ = [
    "FLOATS",
    "STORED_BYTES",
    "StoredMatrix",
    "chunks",
    "constant_behind",
    "is_stored",
    "only_feeds",
    "parts",
    "read_elements",
    "require_finite",
    "rows_of",
]

Array = np.ndarray[Any, Any]
Float32s = np.ndarray[Any, np.dtype[np.float32]]
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
STORED_BYTES = 1 << 20
CHUNK_WEIGHTS = 8 << 20


class StoredMatrix:
    """A constant as a float32 matrix, read anew from the model at every access; behaves as a read-only array.

    Args:
        tensor: Two axes or more; the first is that of the rows, the others together that of the columns.
        turned: Rows and columns change places.
        factor: What every weight is multiplied by.
    """

    __slots__ = ("factor", "shape", "tensor", "turned")
    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, tensor: ir.TensorProtocol, turned: bool = False, factor: float = 1.0) -> None:
        first, *others = (int(size) for size in tensor.shape.numpy())
        self.tensor, self.turned, self.factor = tensor, turned, factor
        self.shape = (math.prod(others), first) if turned else (first, math.prod(others))

    @property
    def size(self) -> int:
        """Weights."""
        return self.shape[0] * self.shape[1]

    @property
    def T(self) -> StoredMatrix:  # noqa: N802
        """The matrix turned."""
        return StoredMatrix(self.tensor, not self.turned, self.factor)

    def times(self, factor: float) -> StoredMatrix:
        """The matrix with every weight multiplied by `factor`."""
        return StoredMatrix(self.tensor, self.turned, self.factor * factor)

    def rows(self, start: int, stop: int) -> Float32s:
        """Some rows, as an array of their own."""
        rows, cols = self.shape
        if self.turned:
            part = mapped(self.tensor).reshape(cols, rows)[:, start:stop].T
        else:
            part = read_elements(self.tensor, start * cols, (stop - start) * cols).reshape(-1, cols)
        found = np.ascontiguousarray(part, dtype=np.float32)
        return found if self.factor == 1.0 else found * np.float32(self.factor)

    def release(self) -> None:
        """Give back the memory that reading a turned matrix maps."""
        raw = getattr(self.tensor, "raw", None)
        if isinstance(raw, mmap.mmap):
            raw.madvise(mmap.MADV_DONTNEED)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(self.shape[0])
            return self.rows(start, max(start, stop))
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.rows(0, self.shape[0]).astype(dtype or np.float32, copy=False)


def is_stored(tensor: ir.TensorProtocol) -> bool:
    """Whether a constant is better read in parts: it lies outside the model's file and is large."""
    return isinstance(tensor, ir.ExternalTensor) and tensor.nbytes >= STORED_BYTES


def only_feeds(value: ir.Value, nodes: Collection[ir.Node]) -> bool:
    """Whether a value ends in these nodes alone, directly or as `constant_behind` sees through."""
    uses = value.uses()
    return (
        bool(uses)
        and not value.is_graph_output()
        and all(
            node in nodes or (node.op_type in ("Cast", "Transpose", "Identity") and only_feeds(node.outputs[0], nodes))
            for node, _ in uses
        )
    )


def constant_behind(value: ir.Value | None) -> tuple[ir.TensorProtocol, bool, ir.DataType] | None:
    """The constant that a value is, as it stands or behind widening conversions and transposes of two axes.

    Returns:
        The constant, whether the value is it turned, and the value's type; None for what is computed.
    """
    turned, kind = False, None
    while value is not None:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            fits = not turned or len(tensor.shape) == 2
            return (tensor, turned, kind or tensor.dtype) if fits else None
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or not node.inputs:
            return None
        if node.op_type == "Cast" and kind is None and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            kind = ir.DataType.FLOAT
        elif node.op_type == "Transpose" and ("perm" not in node.attributes or _swaps(node)):
            turned = not turned
        elif node.op_type != "Identity":
            return None
        value = node.inputs[0]
    return None


def _swaps(node: ir.Node) -> bool:
    return list(node.attributes["perm"].as_ints()) == [1, 0]


def read_elements(tensor: ir.TensorProtocol, start: int, count: int) -> Array:
    """Some elements of a tensor in C order; those of an external one are read, not mapped."""
    if not isinstance(tensor, ir.ExternalTensor):
        flat: Array = tensor.numpy().reshape(-1)[start : start + count]
        return flat
    out = np.empty(count, dtype=np.dtype(tensor.dtype.numpy()).newbyteorder("<"))
    view = out.view(np.uint8).data
    with Path(tensor.path).open("rb", buffering=0) as file:
        file.seek((tensor.offset or 0) + start * out.itemsize)
        while view:
            done = file.readinto(view)
            if not done:
                raise EOFError(f"{tensor.name} ends early")
            view = view[done:]
    return out


def parts(tensor: ir.TensorProtocol) -> Iterator[Array]:
    """A tensor's elements in C order, in parts of at most 8 Mi elements; those of an external one are read."""
    flat = None if isinstance(tensor, ir.ExternalTensor) else tensor.numpy().reshape(-1)
    size = tensor.size if flat is None else flat.size
    for start in range(0, size, CHUNK_WEIGHTS):
        stop = min(start + CHUNK_WEIGHTS, size)
        yield read_elements(tensor, start, stop - start) if flat is None else flat[start:stop]


def mapped(tensor: ir.TensorProtocol) -> Array:
    """A tensor's whole array, mapped where it is external."""
    return np.asarray(tensor.numpy())


def chunks(start: int, stop: int, cols: int) -> list[tuple[int, int]]:
    """Spans of rows, each of at most 32 MiB as float32, that together are `start` to `stop`."""
    step = max(1, CHUNK_WEIGHTS // max(cols, 1))
    return [(at, min(at + step, stop)) for at in range(start, stop, step)]


def require_finite(layer: str, values: Array) -> None:
    """Raise ModelError unless a layer's weights (of any shape), or their largest magnitudes, are finite."""
    if not np.isfinite(values).all():
        raise ModelError(
            f"The weight of {layer!r} holds NaN or infinite values.", remedy="Train or export the model again."
        )


def rows_of(matrix: Any, start: int, stop: int) -> Float32s:
    """Rows of a matrix, be it an array or stored, contiguous float32."""
    return np.ascontiguousarray(matrix[start:stop], dtype=np.float32)
