"""Write ConvTranspose with constant weights as a Conv over the input with zeros between its points."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit, attribute, constant, nodes_of

__all__ = ["turn_convolution_transpose"]


def turn_convolution_transpose(model: ir.Model) -> None:
    """Insert zeros (a ConvTranspose of ones, channel by channel), pad, and convolve with the mirrored kernel.

    Where the output's size is asked for by `output_shape` or `auto_pad` the operator stays as it is.
    """
    for node in nodes_of(model, "ConvTranspose"):
        weight = constant(node.inputs[1])
        automatic = attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "", "VALID")
        if weight is None or weight.dtype != np.float32 or automatic or "output_shape" in node.attributes:
            continue
        if weight.ndim < 3 or constant(node.inputs[0]) is not None or not weight.size:
            continue
        _replace(model, node, weight)


def _replace(model: ir.Model, node: ir.Node, weight: Array) -> None:
    axes = weight.ndim - 2
    group = int(attribute(node, "group", 1))
    strides = tuple(attribute(node, "strides", (1,) * axes))
    dilations = tuple(attribute(node, "dilations", (1,) * axes))
    pads = tuple(attribute(node, "pads", (0,) * 2 * axes)) if "auto_pad" not in node.attributes else (0,) * 2 * axes
    pads = tuple(attribute(node, "pads", (0,) * 2 * axes)) if attribute(node, "auto_pad", "") != "VALID" else pads
    extra = tuple(attribute(node, "output_padding", (0,) * axes))
    edit = Edit(model, node)
    x: Any = node.inputs[0]
    if any(stride > 1 for stride in strides):
        ones = edit.constant(np.ones((weight.shape[0], 1, *[1] * axes), dtype=np.float32))
        x = edit.op("ConvTranspose", x, ones, strides=list(strides), group=weight.shape[0])
    reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
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


def _mirrored(weight: Array, group: int) -> Array:
    """From inputs, outputs of a group, kernel to outputs, inputs of a group, kernel backwards."""
    inputs, outputs, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    parts = weight.reshape(group, inputs // group, outputs, *kernel).swapaxes(1, 2)
    flipped = parts[(slice(None), slice(None), slice(None), *[slice(None, None, -1)] * len(kernel))]
    return flipped.reshape(group * outputs, inputs // group, *kernel)
