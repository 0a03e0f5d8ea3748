"""Fold DequantizeLinear of constants into float weights that remember what one integer stands for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit, attribute, constant, nodes_of

__all__ = ["dequantise", "fold_integer_weights"]


def fold_integer_weights(model: ir.Model) -> None:
    """Give every constant behind a DequantizeLinear its float values; the weights' integers become levels later."""
    for node in nodes_of(model, "DequantizeLinear"):
        integers, scale = constant(node.inputs[0]), constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        given = len(node.inputs) > 2 and node.inputs[2] is not None
        blocked = int(attribute(node, "block_size", 0))
        if integers is None or scale is None or scale.dtype != np.float32 or blocked or (given and zero is None):
            continue
        if integers.dtype.kind not in "iu":
            continue
        axis = int(attribute(node, "axis", 1)) if scale.ndim else None
        edit = Edit(model, node)
        weights, step = dequantise(integers, scale, zero, axis)
        value = edit.constant(weights, step)
        node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=False)


def dequantise(integers: Array, scale: Array, zero: Array | None, axis: int | None) -> tuple[Array, Array]:
    """Float weights, and the step of the integers broadcast to the weights' rank.

    Args:
        integers: Quantised weights.
        scale: One number, or one an entry of `axis`.
        zero: Zero points like `scale`, or None.
        axis: The quantised axis; None for one scale.
    """
    shape = [1] * integers.ndim
    if axis is not None and scale.size > 1 and integers.ndim:
        shape[axis] = -1
    step = scale.reshape(shape).astype(np.float32)
    offset = 0 if zero is None else zero.reshape(shape).astype(np.float32)
    return ((integers.astype(np.float32) - offset) * step).astype(np.float32), step
