"""Write QLinearConv, QLinearMatMul, ConvInteger and MatMulInteger with constant weights around a float product."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Edit, constant, nodes_of
from hyle_compiler.normalise.integer_weights import dequantise

__all__ = ["turn_integer_operators"]

COPIED = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def turn_integer_operators(model: ir.Model) -> None:
    """Dequantise, multiply in float and quantise again; the integer weights stay what the levels are made of."""
    for node in nodes_of(model, "QLinearConv"):
        _qlinear(model, node, "Conv")
    for node in nodes_of(model, "QLinearMatMul"):
        _qlinear(model, node, "MatMul")
    for node in nodes_of(model, "ConvInteger"):
        _integer(model, node, "Conv")
    for node in nodes_of(model, "MatMulInteger"):
        _integer(model, node, "MatMul")


def _at(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {name: node.attributes[name].value for name in COPIED if name in node.attributes}


def _qlinear(model: ir.Model, node: ir.Node, op: str) -> None:
    weight, scale, zero = (constant(_at(node, i)) for i in (3, 4, 5))
    x_scale = constant(_at(node, 1))
    bias = constant(_at(node, 8))
    if weight is None or scale is None or zero is None or scale.dtype != np.float32:
        return
    if op == "Conv" and _at(node, 8) is not None and (bias is None or x_scale is None):
        return
    edit = Edit(model, node)
    axis = 0 if op == "Conv" else weight.ndim - 1
    matrix, step = dequantise(weight, scale, zero, axis if scale.size > 1 else None)
    x = edit.op("DequantizeLinear", node.inputs[0], node.inputs[1], node.inputs[2])
    inputs = [x, edit.constant(matrix, step)]
    if bias is not None and x_scale is not None:
        inputs.append(edit.constant((bias * (scale * x_scale).reshape(-1)).astype(np.float32)))
    y = edit.op(op, *inputs, name=node.name or "", **_attributes(node))
    edit.finish(edit.op("QuantizeLinear", y, node.inputs[6], node.inputs[7]))


def _integer(model: ir.Model, node: ir.Node, op: str) -> None:
    weight, zero = constant(_at(node, 1)), constant(_at(node, 3))
    if weight is None or (_at(node, 3) is not None and zero is None):
        return
    edit = Edit(model, node)
    axis = 0 if op == "Conv" else weight.ndim - 1
    one = np.ones((), dtype=np.float32) if zero is None else np.ones(zero.shape, dtype=np.float32)
    matrix, step = dequantise(weight, one, zero, axis if one.size > 1 else None)
    x = edit.op("Cast", node.inputs[0], to=ir.DataType.FLOAT)
    offset = _at(node, 2)
    if offset is not None:
        if offset.shape is None or len(offset.shape) > 1:
            return
        if len(offset.shape) == 1 and op == "MatMul" and offset.shape[0] != 1:
            return
        x = edit.op("Sub", x, edit.op("Cast", offset, to=ir.DataType.FLOAT))
    y = edit.op(op, x, edit.constant(matrix, step), name=node.name or "", **_attributes(node))
    edit.finish(edit.op("Cast", edit.op("Round", y), to=ir.DataType.INT32))
