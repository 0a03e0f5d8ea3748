"""Write ConvTranspose with constant weights as a Conv over the input with zeros between its points."""

from __future__ import annotations

from dataclasses import dataclass
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
        geometry = _geometry(node, weight)
        if geometry is not None:
            _replace(model, node, weight, geometry)


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What is done along each axis; `heads` and `tails` are cut off the output's beginning and end."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    reach: tuple[int, ...]
    extra: tuple[int, ...]
    heads: tuple[int, ...]
    tails: tuple[int, ...]


def _geometry(node: ir.Node, weight: Array) -> _Geometry | None:
    axes = weight.ndim - 2
    strides = tuple(attribute(node, "strides", (1,) * axes))
    dilations = tuple(attribute(node, "dilations", (1,) * axes))
    extra = tuple(attribute(node, "output_padding", (0,) * axes))
    reach = tuple(d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True))
    mode, wanted = attribute(node, "auto_pad", "NOTSET"), tuple(attribute(node, "output_shape", ()))[-axes:]
    automatic = mode in ("SAME_UPPER", "SAME_LOWER")
    if wanted and not automatic:
        sizes = _sizes(node.inputs[0], axes)
        if sizes is None:
            return None
        whole = [(n - 1) * s + e + r + 1 for n, s, e, r in zip(sizes, strides, extra, reach, strict=True)]
        cut = [w - size for w, size in zip(whole, wanted, strict=True)]
        if min(cut) < 0:
            return None
    elif automatic:  # the input's size times the stride
        cut = [r + 1 - s for r, s in zip(reach, strides, strict=True)]
        if wanted or any(extra) or min(cut) < 0:
            return None
    else:
        pads = tuple(attribute(node, "pads", (0,) * 2 * axes)) if mode != "VALID" else (0,) * 2 * axes
        return _Geometry(strides, dilations, reach, extra, pads[:axes], pads[axes:])
    small, large = tuple(c // 2 for c in cut), tuple(c - c // 2 for c in cut)
    ends = (small, large) if mode == "SAME_UPPER" else (large, small)
    return _Geometry(strides, dilations, reach, extra, *ends)


def _sizes(value: ir.Value | None, axes: int) -> list[int] | None:
    """Sizes of a value's last axes, None unless all are known."""
    shape = [] if value is None or value.shape is None else list(value.shape)[2:]
    sizes = [size for size in shape if isinstance(size, int)]
    return sizes if len(sizes) == axes else None


def _replace(model: ir.Model, node: ir.Node, weight: Array, geometry: _Geometry) -> None:
    axes = weight.ndim - 2
    group = int(attribute(node, "group", 1))
    strides, dilations = geometry.strides, geometry.dilations
    edit = Edit(model, node)
    x: Any = node.inputs[0]
    if any(stride > 1 for stride in strides):
        ones = edit.constant(np.ones((weight.shape[0], 1, *[1] * axes), dtype=np.float32))
        x = edit.op("ConvTranspose", x, ones, strides=list(strides), group=weight.shape[0])
    begins = [r - cut for r, cut in zip(geometry.reach, geometry.heads, strict=True)]
    ends = [r - cut + e for r, cut, e in zip(geometry.reach, geometry.tails, geometry.extra, strict=True)]
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
