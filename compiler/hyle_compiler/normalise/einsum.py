"""Write an Einsum that is a matrix product with a constant as MatMul."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit, attribute, constant, nodes_of

__all__ = ["turn_einsum"]


@dataclass(frozen=True, slots=True)
class _Product:
    """Labels: the variable operand's, those that stay, those that are summed over, and the constant's own."""

    x: str
    batch: str
    summed: str
    columns: str
    weight: str
    out: str


def turn_einsum(model: ir.Model) -> None:
    """Transpose, multiply, reshape and transpose; equations that are no matrix product stay as they are."""
    for node in nodes_of(model, "Einsum"):
        if len(node.inputs) != 2:
            continue
        arrays = [constant(value) for value in node.inputs]
        place = 0 if arrays[0] is not None else 1
        weight, x = arrays[place], node.inputs[1 - place]
        product = _parse(_spelled(str(attribute(node, "equation", "")), [_rank(value) for value in node.inputs]), place)
        if weight is None or x is None or arrays[1 - place] is not None or product is None:
            continue
        if weight.dtype != np.float32 or len(product.weight) != weight.ndim:
            continue
        _replace(model, node, x, weight, product)


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def _spelled(equation: str, ranks: Sequence[int | None]) -> str:
    """The equation with labels in place of `...` and with its output; "" if ranks are missing or labels run out."""
    text, _, out = equation.replace(" ", "").partition("->")
    arrow = "->" in equation
    free = [letter for letter in string.ascii_letters if letter not in equation]
    operands, most = text.split(","), 0
    if len(operands) != len(ranks):
        return ""
    for place, (operand, rank) in enumerate(zip(operands, ranks, strict=True)):
        if "..." in operand:
            count = -1 if rank is None else rank - len(operand.replace("...", ""))
            if not 0 <= count <= len(free):
                return ""
            most = max(most, count)
            operands[place] = operand.replace("...", "".join(free[:count][::-1]))  # aligned at the right
    if not arrow:
        once = Counter(label for label in text if label.isalpha())
        out = ("..." if "..." in text else "") + "".join(sorted(label for label, times in once.items() if times == 1))
    return f"{','.join(operands)}->{out.replace('...', ''.join(free[:most][::-1]))}"


def _parse(equation: str, place: int) -> _Product | None:
    left, _, out = equation.partition("->")
    if left.count(",") != 1:
        return None
    operands = left.split(",")
    weight, x = operands[place], operands[1 - place]
    summed = "".join(label for label in weight if label in x)
    columns = "".join(label for label in weight if label not in x)
    batch = "".join(label for label in x if label not in weight)
    simple = all(len(set(part)) == len(part) for part in (weight, x, out)) and bool(summed and columns and batch)
    if not simple or set(out) != set(batch + columns):
        return None
    return _Product(x, batch, summed, columns, weight, out)


def _replace(model: ir.Model, node: ir.Node, x: ir.Value, weight: Array, product: _Product) -> None:
    edit = Edit(model, node)
    order = product.summed + product.columns
    sizes = dict(zip(product.weight, weight.shape, strict=True))
    matrix = weight.transpose([product.weight.index(label) for label in order])
    rows = int(np.prod([sizes[label] for label in product.summed], dtype=np.int64))
    x = _transposed(edit, x, product.x, product.batch + product.summed)
    if len(product.summed) > 1:
        x = edit.op("Reshape", x, edit.constant(np.array([0] * len(product.batch) + [-1], dtype=np.int64)))
    y = edit.op("MatMul", x, edit.constant(matrix.reshape(rows, -1)), name=node.name or "")
    if len(product.columns) > 1:
        shape = [0] * len(product.batch) + [sizes[label] for label in product.columns]
        y = edit.op("Reshape", y, edit.constant(np.array(shape, dtype=np.int64)))
    made = product.batch + product.columns
    edit.finish(_transposed(edit, y, made, product.out))


def _transposed(edit: Edit, value: ir.Value, have: str, want: str) -> ir.Value:
    if have == want:
        return value
    turned: ir.Value = edit.op("Transpose", value, perm=[have.index(label) for label in want])
    return turned
