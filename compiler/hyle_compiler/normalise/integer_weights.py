"""Fold DequantizeLinear of constants into float weights that remember what one integer stands for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit, attribute, constant, nodes_of

__all__ = ["dequantise", "fold_integer_weights"]


SCALES = (np.float32, np.float16)
SHORT = {"int2", "uint2", "int4", "uint4"}


def fold_integer_weights(model: ir.Model) -> None:
    """Give every constant behind a DequantizeLinear its float values; the weights' integers become levels later."""
    for node in nodes_of(model, "DequantizeLinear"):
        integers, scale = constant(node.inputs[0]), constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        given = len(node.inputs) > 2 and node.inputs[2] is not None
        blocked = int(attribute(node, "block_size", 0))
        if integers is None or scale is None or scale.dtype not in SCALES or (given and zero is None):
            continue
        if integers.dtype.kind not in "iu" and integers.dtype.name not in SHORT:
            continue
        axis = int(attribute(node, "axis", 1)) if scale.ndim else None
        edit = Edit(model, node)
        if blocked and axis is not None:
            scale = _spread(scale, integers.shape, axis, blocked)
            zero = None if zero is None else _spread(zero, integers.shape, axis, blocked)
            axis = None
        weights, step = dequantise(integers, scale, zero, axis)
        value = edit.constant(weights.astype(scale.dtype), None if blocked or scale.dtype != np.float32 else step)
        node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=False)


def _spread(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """What holds for `block` entries of an axis at once, for each of them."""
    return np.repeat(values, block, axis=axis).take(range(shape[axis]), axis=axis)


def dequantise(integers: Array, scale: Array, zero: Array | None, axis: int | None) -> tuple[Array, Array]:
    """Float weights, and the step of the integers broadcast to the weights' rank.

    Args:
        integers: Quantised weights.
        scale: One number, one an entry of `axis`, or one a weight.
        zero: Zero points like `scale`, or None.
        axis: The quantised axis; None for one scale, or one a weight.
    """
    shape = [1] * integers.ndim if axis is not None or scale.size == 1 else list(scale.shape)
    if axis is not None and scale.size > 1 and integers.ndim:
        shape[axis] = -1
    step = scale.reshape(shape).astype(np.float32)
    offset = 0 if zero is None else zero.reshape(shape).astype(np.float32)
    return ((integers.astype(np.float32) - offset) * step).astype(np.float32), step
