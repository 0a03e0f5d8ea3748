"""Decide which operators run on physics, and say why the others do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from hyle_substrates.host import Geometry

from hyle_compiler.errors import ModelError
from hyle_compiler.matrices import FLOATS, StoredMatrix, constant_behind, is_stored
from hyle_compiler.normalise.edit import step_of
from hyle_compiler.normalise.recurrent import RECURRENT, reason_digital
from hyle_compiler.segments import CONTROL, owners_of

__all__ = ["LEARNED_RANGE", "Candidate", "Digital", "Partition", "partition"]

Float32s = np.ndarray[Any, np.dtype[np.float32]]
LEARNED_RANGE = "hyle.input_range"


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An operator that is a matrix product with a constant matrix.

    `matrix` is rows by columns (a view where it can be, or a `StoredMatrix`); `bias` one value a column; `x` and `y`
    are the operator's variable input and its output. `step` is what one integer of a quantised column stands for, or
    None.
    """

    name: str
    node: ir.Node
    op: Literal["matmul", "conv"]
    x: ir.Value
    y: ir.Value
    matrix: Float32s
    bias: Float32s
    geometry: Geometry | None
    step: Float32s | None = None

    @property
    def learned_range(self) -> float | None:
        """The input range that training found for this operator, if it did: it holds instead of a calibrated one."""
        try:
            found = float(self.node.metadata_props.get(LEARNED_RANGE, "nan"))
        except ValueError:
            return None
        return found if 0.0 < found < math.inf else None


@dataclass(frozen=True, slots=True)
class Digital:
    """An operator with weights that stays digital, and the reason."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Partition:
    """What goes where."""

    physical: tuple[Candidate, ...]
    digital: tuple[Digital, ...]


class StaysDigitalError(Exception):
    """A reason why an operator stays digital."""


def partition(model: ir.Model, *, stored: bool = False) -> Partition:
    """Find the operators that a matrix substrate can run: MatMul, Gemm and Conv with constant weights.

    Args:
        model: The simplified model.
        stored: Leave large matrices of external data where they are (see `StoredMatrix`).
    """
    physical: list[Candidate] = []
    digital: list[Digital] = []
    names: set[str] = set()
    owners = owners_of(model.graph)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        reader = READERS.get((node.domain.removeprefix("ai.onnx"), node.op_type))
        if reader is None:
            continue
        try:
            _check_surroundings(node, owners)
            if stored and node.graph in owners:
                raise StaysDigitalError("it is inside control flow, and the model is compiled layer by layer")
            if (found := reader(node, _layer_name(node, names), stored)) is not None:
                physical.append(found)
        except StaysDigitalError as reason:
            digital.append(Digital(node.name or node.op_type, node.op_type, str(reason)))
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise ModelError(
                f"Attributes and weights of node {node.name!r} ({node.op_type}) do not fit each other.",
                remedy="Check the model with onnx.checker.",
            ) from error
    return Partition(tuple(physical), tuple(digital))


def _check_surroundings(node: ir.Node, owners: Mapping[ir.Graph, ir.Node]) -> None:
    around: Any = node.graph
    while around in owners:
        if owners[around].op_type not in CONTROL:
            raise StaysDigitalError(f"it is inside a {owners[around].op_type}")
        around = owners[around].graph


def _layer_name(node: ir.Node, taken: set[str]) -> str:
    raw = node.name or f"{node.op_type}_{node.outputs[0].name}"
    base = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in raw).strip("_")[:80] or node.op_type
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def _known(value: ir.Value | None, what: str) -> tuple[ir.TensorProtocol, bool]:
    """A constant whose value is float32, and whether the value is it turned."""
    found = constant_behind(value)
    if found is None:
        raise StaysDigitalError(f"its {what} is computed at run time")
    tensor, turned, kind = found
    if kind not in FLOATS or tensor.dtype not in FLOATS:
        raise StaysDigitalError(f"its {what} is of type {kind.name}")
    if kind is not ir.DataType.FLOAT:
        raise StaysDigitalError(f"its {what} is of type {kind.name}; only float32 goes on physics")
    return tensor, turned


def _constant(value: ir.Value | None, what: str) -> Float32s:
    tensor, turned = _known(value, what)
    array = np.asarray(tensor.numpy())
    return np.asarray(array.T if turned else array, dtype=np.float32)


def _weight(value: ir.Value | None, what: str, stored: bool) -> Any:
    """A matrix; with `stored` a large one is left where it is."""
    tensor, turned = _known(value, what)
    if stored and is_stored(tensor) and len(tensor.shape) == 2:
        return StoredMatrix(tensor, turned)
    return _constant(value, what)


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise StaysDigitalError("its input is missing")
    return value


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _matmul(node: ir.Node, name: str, stored: bool) -> Candidate:
    if _is_constant(node.inputs[0]):
        raise StaysDigitalError("its constant is the left operand")
    matrix = _weight(node.inputs[1], "right operand", stored)
    if matrix.ndim != 2:
        raise StaysDigitalError(f"its constant has {matrix.ndim} dimensions")
    bias = np.zeros(matrix.shape[1], dtype=np.float32)
    return _candidate(name, node, "matmul", matrix, bias, None, _step(node, matrix))


def _gemm(node: ir.Node, name: str, stored: bool) -> Candidate:
    if _attribute(node, "transA", 0):
        raise StaysDigitalError("its input is transposed")
    matrix = _weight(node.inputs[1], "weight", stored)
    if _attribute(node, "transB", 0):
        matrix = matrix.T
    alpha, beta = float(_attribute(node, "alpha", 1.0)), float(_attribute(node, "beta", 1.0))
    if alpha != 1.0:
        matrix = matrix.times(alpha) if isinstance(matrix, StoredMatrix) else matrix * np.float32(alpha)
    bias = np.zeros(matrix.shape[1], dtype=np.float32)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        given = _constant(node.inputs[2], "bias")
        if given.ndim == 2 and given.shape[0] != 1:
            raise StaysDigitalError("its bias differs from row to row")
        bias = np.broadcast_to(given.reshape(-1) * np.float32(beta), bias.shape).astype(np.float32)
    step = _step(node, matrix, turned=bool(_attribute(node, "transB", 0))) if alpha == 1.0 else None
    return _candidate(name, node, "matmul", matrix, bias, None, step)


def _conv(node: ir.Node, name: str, stored: bool) -> Candidate:
    shape, matrix = _kernels(node, stored)
    group = int(_attribute(node, "group", 1))
    if group != 1:
        raise StaysDigitalError(f"it has {group} groups")
    axes = len(shape) - 2
    if axes < 1:
        raise StaysDigitalError("it has no spatial axis")
    kernel = tuple(shape[2:])
    strides = tuple(_attribute(node, "strides", (1,) * axes))
    dilations = tuple(_attribute(node, "dilations", (1,) * axes))
    geometry = Geometry(kernel, strides, _pads(node, kernel, strides, dilations), dilations)
    bias = np.zeros(shape[0], dtype=np.float32)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _constant(node.inputs[2], "bias")
    return _candidate(name, node, "conv", matrix, bias, geometry, _step(node, matrix, turned=True))


def _kernels(node: ir.Node, stored: bool) -> tuple[tuple[int, ...], Any]:
    """Shape of a convolution's weight, and its matrix."""
    tensor, turned = _known(node.inputs[1], "weight")
    shape = tuple(int(size) for size in tensor.shape.numpy())
    if turned or not shape:
        raise StaysDigitalError("its weight is no stack of kernels")
    if stored and is_stored(tensor):
        return shape, StoredMatrix(tensor, True)
    return shape, _constant(node.inputs[1], "weight").reshape(shape[0], -1).T


def _step(node: ir.Node, matrix: Float32s, turned: bool = False) -> Float32s | None:
    """One number a column, where the weight came from integers with one scale a column or one for all."""
    step = step_of(_input(node, 1))
    if step is None:
        return None
    if turned and step.ndim:
        step = step.reshape(step.shape[0], -1).T
    if step.ndim > 1 and step.shape[0] != 1:
        return None
    return np.ascontiguousarray(np.broadcast_to(step.reshape(-1), matrix.shape[1:]), dtype=np.float32)


def _pads(
    node: ir.Node, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...]:
    mode = _attribute(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return tuple(_attribute(node, "pads", (0,) * (2 * len(kernel))))
    if mode == "VALID":
        return (0,) * (2 * len(kernel))
    shape = _input(node, 0).shape
    spatial = [None] * len(kernel) if shape is None else list(shape)[2:]
    if not all(isinstance(size, int) for size in spatial):
        raise StaysDigitalError(f"its padding {mode} depends on a free dimension")
    totals = [
        max((-(-int(size) // s) - 1) * s + d * (k - 1) + 1 - int(size), 0)  # type: ignore[arg-type]
        for size, s, d, k in zip(spatial, strides, dilations, kernel, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return tuple(small + large) if mode == "SAME_UPPER" else tuple(large + small)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def _candidate(
    name: str,
    node: ir.Node,
    op: Literal["matmul", "conv"],
    matrix: Any,
    bias: Any,
    geometry: Geometry | None,
    step: Float32s | None,
) -> Candidate:
    x = _input(node, 0)
    if _is_constant(x):
        raise StaysDigitalError("its input is a constant")
    if matrix.size == 0:
        raise StaysDigitalError("its weight is empty")
    if not isinstance(matrix, StoredMatrix) and not np.any(matrix):
        raise StaysDigitalError("all its weights are zero")
    return Candidate(name, node, op, x, node.outputs[0], matrix, bias, geometry, step)


def _recurrent(node: ir.Node, name: str, stored: bool) -> Candidate:
    raise StaysDigitalError(reason_digital(node) or "it was not written as products")


def _einsum(node: ir.Node, name: str, stored: bool) -> Candidate:
    equation = _attribute(node, "equation", "")
    raise StaysDigitalError(f"its equation {equation!r} is no product with one constant matrix here")


def _transposed_convolution(node: ir.Node, name: str, stored: bool) -> None:
    """What `normalise` left; the ones that it wrote itself spread an input and are no product."""
    if _attribute(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        raise StaysDigitalError("its auto_pad leaves its size open; say pads instead")
    if "output_shape" in node.attributes:
        reason = "its output_shape depends on a free dimension, or asks for more than the kernel reaches"
        raise StaysDigitalError(f"{reason}; say pads instead")


def _contributed(node: ir.Node, name: str, stored: bool) -> Candidate:
    raise StaysDigitalError(
        "it is an operator of onnxruntime's own; export the model before it is optimised or quantised"
    )


# Products with weights among the operators that onnxruntime's optimiser and its quantisers write.
CONTRIBUTED = (
    "Attention",
    "DynamicQuantizeMatMul",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
)
# By domain and operator; None for an operator that is no product after all.
READERS: dict[tuple[str, str], Callable[[ir.Node, str, bool], Candidate | None]] = {
    ("", "MatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("", "Conv"): _conv,
    ("", "Einsum"): _einsum,
    ("", "ConvTranspose"): _transposed_convolution,
    **{("", op): _recurrent for op in RECURRENT},
    **{("com.microsoft", op): _contributed for op in CONTRIBUTED},
}
