"""Turn a MatMul until its constant is a matrix on the right."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit, constant, nodes_of, rank, step_of

__all__ = ["MOST_PRODUCTS", "multiply_apart", "turn_matmul_operands"]

MOST_PRODUCTS = 64


def turn_matmul_operands(model: ir.Model) -> None:
    """Transpose a product whose constant is on the left; part one with a stack of constant matrices."""
    for node in nodes_of(model, "MatMul"):
        weight = constant(node.inputs[0])
        if weight is not None and constant(node.inputs[1]) is None:
            _swap(model, node, weight)
    for node in nodes_of(model, "MatMul"):
        weight = constant(node.inputs[1])
        if weight is not None and weight.dtype == np.float32 and constant(node.inputs[0]) is None and weight.size:
            _flatten(model, node, weight)


def _swap(model: ir.Model, node: ir.Node, weight: Array) -> None:
    dimensions = rank(node.inputs[1])
    if dimensions is None or weight.ndim < 2 or dimensions < max(2, weight.ndim) or weight.dtype != np.float32:
        return
    edit = Edit(model, node)
    perm = [*range(dimensions - 2), dimensions - 1, dimensions - 2]
    x = edit.op("Transpose", node.inputs[1], perm=perm)
    if node.inputs[1] is not None and node.inputs[1].shape is not None:
        x.shape = ir.Shape([node.inputs[1].shape[i] for i in perm])
    y = edit.op("MatMul", x, edit.constant(weight.swapaxes(-1, -2)), name=node.name or "")
    edit.finish(edit.op("Transpose", y, perm=perm))


def _flatten(model: ir.Model, node: ir.Node, weight: Array) -> None:
    x = node.inputs[0]
    dimensions = rank(x)
    if weight.ndim == 1:
        edit = Edit(model, node)
        y = edit.op("MatMul", x, edit.constant(weight[:, None]), name=node.name or "")
        edit.finish(edit.op("Squeeze", y, edit.constant(np.array([-1], dtype=np.int64))))
    elif weight.ndim > 2 and dimensions is not None and dimensions >= weight.ndim:
        if int(np.prod(weight.shape[:-2])) == 1:
            edit = Edit(model, node)
            step = step_of(node.inputs[1]) if node.inputs[1] is not None else None
            flat = edit.constant(weight.reshape(weight.shape[-2:]), step)
            edit.finish(edit.op("MatMul", x, flat, name=node.name or ""))
        elif int(np.prod(weight.shape[:-3])) == 1 and x is not None and x.shape is not None:
            stack = weight.reshape(weight.shape[-3:])
            many = x.shape[dimensions - 3]
            if many in (1, len(stack)) and len(stack) <= MOST_PRODUCTS:
                edit = Edit(model, node)
                edit.finish(multiply_apart(edit, x, stack, dimensions - 3, split=many != 1))


def multiply_apart(edit: Edit, x: ir.Value, stack: Array, axis: int, *, split: bool) -> ir.Value:
    """A product with each of a stack of matrices, side by side along `axis`.

    Args:
        edit: Collects the nodes.
        x: What is multiplied, at least two dimensions.
        stack: At most `MOST_PRODUCTS` matrices.
        axis: Where the products lie in the result.
        split: Whether `x` has one part for each matrix along `axis`, or one for all.
    """
    sizes = edit.constant(np.ones(len(stack), dtype=np.int64))
    parts = edit.op("Split", x, sizes, outputs=len(stack), axis=axis) if split and len(stack) > 1 else [x] * len(stack)
    name = edit.node.name or edit.node.op_type
    made = [
        edit.op("MatMul", part, edit.constant(matrix), name=f"{name}_part{number}")
        for number, (part, matrix) in enumerate(zip(parts, stack, strict=True))
    ]
    joined: ir.Value = edit.op("Concat", *made, axis=axis)
    return joined
