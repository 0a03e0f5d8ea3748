"""Write an Einsum that is a matrix product with a constant as MatMul."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit, attribute, constant, nodes_of
from hyle_compiler.normalise.matmul_operands import MOST_PRODUCTS, multiply_apart

__all__ = ["turn_einsum"]


@dataclass(frozen=True, slots=True)
class _Product:
    """Labels: all of the variable operand, the one that has a matrix for each, those that stay, are summed, are new.

    `weight` and `out` are all of the constant's and of the result's.
    """

    x: str
    each: str
    batch: str
    summed: str
    columns: str
    weight: str
    out: str


def turn_einsum(model: ir.Model) -> None:
    """Transpose, multiply, reshape and transpose; equations that are no product with one or some matrices stay."""
    for node in nodes_of(model, "Einsum"):
        if len(node.inputs) != 2:
            continue
        arrays = [constant(value) for value in node.inputs]
        place = 0 if arrays[0] is not None else 1
        weight, x = arrays[place], node.inputs[1 - place]
        product = _parse(_spelled(str(attribute(node, "equation", "")), [_rank(value) for value in node.inputs]), place)
        if weight is None or x is None or arrays[1 - place] is not None or product is None:
            continue
        if weight.dtype != np.float32 or len(product.weight) != weight.ndim or not weight.size:
            continue
        if product.each and weight.shape[product.weight.index(product.each)] > MOST_PRODUCTS:
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
    each = "".join(label for label in weight if label in x and label in out)
    summed = "".join(label for label in weight if label in x and label not in out)
    columns = "".join(label for label in weight if label not in x)
    batch = "".join(label for label in x if label not in weight)
    simple = all(len(set(part)) == len(part) for part in (weight, x, out)) and bool(summed and columns and batch + each)
    if not simple or len(each) > 1 or set(out) != set(each + batch + columns):
        return None
    return _Product(x, each, batch, summed, columns, weight, out)


def _replace(model: ir.Model, node: ir.Node, x: ir.Value, weight: Array, product: _Product) -> None:
    edit = Edit(model, node)
    kept = product.each + product.batch
    order = product.each + product.summed + product.columns
    sizes = dict(zip(product.weight, weight.shape, strict=True))
    matrix = weight.transpose([product.weight.index(label) for label in order])
    rows = int(np.prod([sizes[label] for label in product.summed], dtype=np.int64))
    x = _transposed(edit, x, product.x, kept + product.summed)
    if len(product.summed) > 1:
        x = edit.op("Reshape", x, edit.constant(np.array([0] * len(kept) + [-1], dtype=np.int64)))
    if product.each:
        y = multiply_apart(edit, x, matrix.reshape(len(matrix), rows, -1), 0, split=True)
    else:
        y = edit.op("MatMul", x, edit.constant(matrix.reshape(rows, -1)), name=node.name or "")
    if len(product.columns) > 1:
        shape = [0] * len(kept) + [sizes[label] for label in product.columns]
        y = edit.op("Reshape", y, edit.constant(np.array(shape, dtype=np.int64)))
    made = kept + product.columns
    edit.finish(_transposed(edit, y, made, product.out))


def _transposed(edit: Edit, value: ir.Value, have: str, want: str) -> ir.Value:
    if have == want:
        return value
    turned: ir.Value = edit.op("Transpose", value, perm=[have.index(label) for label in want])
    return turned
