"""Turn a MatMul until its constant is a matrix on the right."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit, constant, nodes_of, rank, step_of

__all__ = ["MOST_PRODUCTS", "turn_matmul_operands"]

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
        elif weight.ndim == dimensions == 3 and x is not None:
            _part(model, node, x, weight)


def _part(model: ir.Model, node: ir.Node, x: ir.Value, weight: Array) -> None:
    batch = x.shape[0] if x.shape is not None else None
    if batch not in (1, len(weight)) or len(weight) > MOST_PRODUCTS:
        return
    edit = Edit(model, node)
    sizes = edit.constant(np.ones(len(weight), dtype=np.int64))
    parts = [x] * len(weight) if batch == 1 else edit.op("Split", x, sizes, outputs=len(weight), axis=0)
    made = [
        edit.op("MatMul", part, edit.constant(matrix), name=f"{node.name or 'MatMul'}_part{number}")
        for number, (part, matrix) in enumerate(zip(parts, weight, strict=True))
    ]
    edit.finish(edit.op("Concat", *made, axis=0))
