"""The products that a layer means, and their gradients: a matrix product, or a convolution."""

from __future__ import annotations

from typing import TypeAlias

import torch
from hyle_substrates.host import Geometry

__all__ = ["gradients", "multiplied"]

Tensor: TypeAlias = torch.Tensor


def multiplied(x: Tensor, matrix: Tensor, geometry: Geometry | None) -> Tensor:
    """Multiply by a matrix, rows by columns: `(..., rows)`, or batch, channels, spatial for a convolution."""
    return x @ matrix if geometry is None else _convolve(x, _kernels(matrix, geometry), geometry)


def gradients(
    x: Tensor, matrix: Tensor, grad: Tensor, geometry: Geometry | None, want_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients with respect to input (None unless wanted), matrix and bias."""
    if geometry is None:
        flat, rows = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        return (grad @ matrix.T if want_x else None), rows.T @ flat, flat.sum(0)
    n = len(geometry.kernel)
    framed, pads = _padded(x, geometry)
    grad_x, grad_kernels, grad_bias = torch.ops.aten.convolution_backward(
        grad.contiguous(),
        framed,
        _kernels(matrix, geometry),
        [matrix.shape[1]],
        geometry.strides,
        pads,
        geometry.dilations,
        False,
        [0] * n,
        1,
        [want_x, True, True],
    )
    if want_x and framed is not x:
        for axis in range(n):
            grad_x = grad_x.narrow(2 + axis, geometry.pads[axis], x.shape[2 + axis])
    return grad_x, grad_kernels.reshape(matrix.shape[1], -1).T, grad_bias


def _kernels(matrix: Tensor, geometry: Geometry) -> Tensor:
    return matrix.T.reshape(matrix.shape[1], -1, *geometry.kernel)


def _padded(x: Tensor, geometry: Geometry) -> tuple[Tensor, list[int]]:
    """The input with as much padding as the convolution cannot do itself, and the padding that is left to it.

    It pads both sides of an axis alike; copying images into a frame costs as much as a small convolution.
    """
    n = len(geometry.kernel)
    if geometry.pads[:n] == geometry.pads[n:]:
        return x, list(geometry.pads[:n])
    pads = [pad for i in reversed(range(n)) for pad in (geometry.pads[i], geometry.pads[i + n])]
    return torch.nn.functional.pad(x, pads), [0] * n


def _convolve(x: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    call = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[len(geometry.kernel)]
    framed, pads = _padded(x, geometry)
    return call(framed, kernels, None, geometry.strides, pads, geometry.dilations)  # type: ignore[operator,no-any-return]
