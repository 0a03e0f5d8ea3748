"""Write ConvTranspose with constant weights as a Conv over the input with zeros between its points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit, attribute, constant, nodes_of

__all__ = ["turn_convolution_transpose"]


def turn_convolution_transpose(model: ir.Model) -> None:
    """Insert zeros (a ConvTranspose of ones, channel by channel), pad, and convolve with the mirrored kernel.

    Where `output_shape` asks for a size that cannot be known here, or for more than the kernel reaches, the operator
    stays as it is; so it does where onnx and onnxruntime say different sizes of `auto_pad`.
    """
    for node in nodes_of(model, "ConvTranspose"):
        weight = constant(node.inputs[1])
        if weight is None or weight.dtype != np.float32:
            continue
        if weight.ndim < 3 or constant(node.inputs[0]) is not None or not weight.size:
            continue
        _replace(model, node, weight)


def _replace(model: ir.Model, node: ir.Node, weight: Array) -> None:
    axes = weight.ndim - 2
    group = int(attribute(node, "group", 1))
    strides = tuple(attribute(node, "strides", (1,) * axes))
    dilations = tuple(attribute(node, "dilations", (1,) * axes))
    extra = tuple(attribute(node, "output_padding", (0,) * axes))
    reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    pads = _pads(node, strides, reach, extra)
    if pads is None:
        return
    edit = Edit(model, node)
    x: Any = node.inputs[0]
    if any(stride > 1 for stride in strides):
        ones = edit.constant(np.ones((weight.shape[0], 1, *[1] * axes), dtype=np.float32))
        x = edit.op("ConvTranspose", x, ones, strides=list(strides), group=weight.shape[0])
    begins = [r - p for r, p in zip(reach, pads[:axes], strict=True)]
    ends = [r - p + e for r, p, e in zip(reach, pads[axes:], extra, strict=True)]
    if min(begins + ends) < 0:
        x = edit.op("Pad", x, edit.constant(np.array([0, 0, *begins, 0, 0, *ends], dtype=np.int64)))
        begins, ends = [0] * axes, [0] * axes
    inputs = [x, edit.constant(_mirrored(weight, group))]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        inputs.append(node.inputs[2])
    edit.finish(
        edit.op(
            "Conv",
            *inputs,
            name=node.name or "",
            kernel_shape=list(weight.shape[2:]),
            strides=[1] * axes,
            dilations=list(dilations),
            pads=begins + ends,
            group=group,
        )
    )


def _pads(node: ir.Node, strides: Sequence[int], reach: Sequence[int], extra: Sequence[int]) -> tuple[int, ...] | None:
    """What is cut off the output's beginnings and ends; None where that cannot be known."""
    axes, mode = len(strides), attribute(node, "auto_pad", "NOTSET")
    asked = tuple(attribute(node, "output_shape", ()))[-axes:]
    if mode in ("SAME_UPPER", "SAME_LOWER"):  # the input's size times the stride
        cut = [r + 1 - s for r, s in zip(reach, strides, strict=True)]
        if asked or any(extra):
            return None
    elif asked:
        shape = [] if (x := node.inputs[0]) is None or x.shape is None else list(x.shape)[2:]
        sizes = [size for size in shape if isinstance(size, int)]
        if len(sizes) != axes:
            return None
        whole = [(n - 1) * s + e + r + 1 for n, s, e, r in zip(sizes, strides, extra, reach, strict=True)]
        cut = [w - size for w, size in zip(whole, asked, strict=True)]
    else:
        none = (0,) * 2 * axes
        return none if mode == "VALID" else tuple(attribute(node, "pads", none))
    if min(cut) < 0:
        return None
    small, large = [c // 2 for c in cut], [c - c // 2 for c in cut]
    return tuple(small + large if mode == "SAME_UPPER" else large + small)


def _mirrored(weight: Array, group: int) -> Array:
    """From inputs, outputs of a group, kernel to outputs, inputs of a group, kernel backwards."""
    inputs, outputs, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    parts = weight.reshape(group, inputs // group, outputs, *kernel).swapaxes(1, 2)
    flipped = parts[(slice(None), slice(None), slice(None), *[slice(None, None, -1)] * len(kernel))]
    return flipped.reshape(group * outputs, inputs // group, *kernel)
