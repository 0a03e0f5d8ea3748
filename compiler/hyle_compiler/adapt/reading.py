"""One read of a layer for torch: forward as the device does it, backward as the clean product.

The steps are those of `hyle_substrates.io`, in place: half the time of a training step went into copies of what it has
just made.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from hyle_substrates import io

from hyle_compiler.adapt.products import gradients

if TYPE_CHECKING:
    from hyle_compiler.adapt.torch_view import Held, PhysicalLayer

__all__ = ["Read", "deviates"]

TABLE = 2**22
Tensor: TypeAlias = torch.Tensor


class Read(torch.autograd.Function):
    """Forward: converters, matter and noise. Backward: the clean product, at the codes that drove the rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, bias: Tensor, limit: Tensor, layer: PhysicalLayer) -> Tensor:
        """Answer `x` as the layer's matter does; `limit` is the layer's own input range."""
        assert layer.matter is not None
        profile = layer.profile
        full_scale = _full_scale(layer, x)
        codes = _codes(x, full_scale, profile.dac.levels)
        ctx.save_for_backward(codes, full_scale, matrix)
        ctx.layer = layer
        answer = layer.matter.answers(layer, x)
        return _simulated(layer, codes, full_scale) if answer is None else answer

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the clean layer with respect to input, matrix, bias and input range.

        The range's is that of PACT (Choi et al. 2018, arXiv 1805.06085): what is cut moves with it.
        """
        codes, full_scale, matrix = ctx.saved_tensors
        layer: PhysicalLayer = ctx.layer
        unit = full_scale * layer.profile.dac_unit
        shared = unit.ndim == 0
        x = codes if shared else codes * unit
        grad_x, grad_matrix, grad_bias = gradients(x, matrix, grad, layer.geometry, ctx.needs_input_grad[0])
        grad_matrix = grad_matrix * unit if shared else grad_matrix
        grad_limit = None
        if grad_x is not None and layer.profile.dac.levels and not layer.calibrated.dynamic:
            highest = float(layer.profile.dac.levels)
            kept = torch.ops.aten.hardtanh_backward(grad_x, codes, -highest, highest)
            if ctx.needs_input_grad[3]:
                grad_limit = ((grad_x - kept) * codes).sum() / highest
            grad_x = kept
        return grad_x, grad_matrix, grad_bias, grad_limit, None


def _codes(x: Tensor, full_scale: Tensor, levels: int) -> Tensor:
    """`io.encode` in place."""
    ratio = x / (full_scale + io.TINY)
    return ratio.clamp_(-1.0, 1.0).mul_(levels).round_() if levels else ratio


def _read(sums: Tensor, deviate: Tensor | None, noise: Any, levels: int) -> Tensor:
    """`io.readout` in place."""
    if deviate is not None:
        sums = sums.addcmul_(noise, deviate) if torch.is_tensor(noise) else sums.add_(deviate, alpha=noise)
    return sums.round_().clamp_(-levels, levels) if levels else sums


def _full_scale(layer: PhysicalLayer, x: Tensor) -> Tensor:
    if not layer.calibrated.dynamic:
        return layer.full_scale  # type: ignore[return-value]
    axes = -1 if layer.geometry is None else tuple(range(1, x.ndim))
    return x.abs().amax(axes, keepdim=True)


def _simulated(layer: PhysicalLayer, codes: Tensor, full_scale: Tensor) -> Tensor:
    profile, held = layer.profile, layer.matter.hold(layer)  # type: ignore[union-attr]
    unit = profile.dac_unit / profile.adc_unit * profile.swing * layer.calibrated.row_copies
    taps = 1 if layer.geometry is None else int(np.prod(layer.geometry.kernel))
    shared = full_scale.ndim == 0
    total: Tensor | None = None
    for (start, stop), weights, gain in zip(layer.spans, held.weights, held.gain, strict=True):
        driven, block = _driven(layer, codes, weights, start, stop, taps)
        reads = [_block(layer, side, block * unit, held) for side in io.sides(driven, layer.calibrated.polarity)]
        read = reads[0] if len(reads) == 1 else reads[0] - reads[1]
        total = _sum(total, read, layer.per_column(gain * full_scale if shared else gain))
    assert total is not None
    return total.add_(layer.per_column(held.offset)) if shared else total * full_scale + layer.per_column(held.offset)


def _sum(total: Tensor | None, read: Tensor, gain: Tensor) -> Tensor:
    """`io.decode` in place, added to the other blocks'."""
    return read.mul_(gain) if total is None else total.addcmul_(read, gain)


def _block(layer: PhysicalLayer, codes: Tensor, weights: Tensor, held: Held) -> Tensor:
    """Read one block, weights in ADC codes a DAC code; the mean over column copies."""
    profile, copies = layer.profile, layer.calibrated.row_copies
    sums = layer.product(codes, weights)
    base = None
    if profile.reference:
        base = layer.product(codes, torch.full((weights.shape[0], 1), profile.reference * copies))
        sums = sums + base
    noise: Any = held.noise
    if noise and profile.signal_noise:
        noise = noise * _signal_noise(layer, codes, weights, sums)
    deviate = deviates(sums.shape) if held.noise else None
    read = _read(sums, deviate, noise, profile.adc.levels)
    return read if base is None else read - base


def deviates(shape: torch.Size) -> Tensor:
    """Standard normal deviates for the noise of reads.

    torch draws a deviate in 30 ns, which is longer than the layer itself takes; so they are taken from a table of four
    million, from a new random place for every read.
    """
    count = shape.numel()
    table = _table(max(TABLE, 2 * count))
    start = int(torch.randint(len(table) - count + 1, ()))
    return table[start : start + count].reshape(shape)


@cache
def _table(size: int) -> Tensor:
    generator = np.random.Generator(np.random.SFC64(0x68796C65))
    return torch.from_numpy(generator.standard_normal(size, dtype=np.float32))


def _signal_noise(layer: PhysicalLayer, codes: Tensor, weights: Tensor, sums: Tensor) -> Tensor:
    """Standard deviation of a read that depends on what is read, in ADC codes."""
    profile = layer.profile
    power = layer.product(codes * codes, torch.ones(weights.shape[0], 1))
    light: Any = 0.0
    if profile.shot_noise_codes:
        light = sums.clamp_min(0.0) if profile.reference else layer.product(codes.abs(), weights.abs())
    weight = profile.weight_noise_codes * layer.calibrated.row_copies**0.5
    return io.noise_std(power, light, profile.noise_codes, weight, profile.shot_noise_codes)


def _driven(
    layer: PhysicalLayer, codes: Tensor, weights: Tensor, start: int, stop: int, taps: int
) -> tuple[Tensor, Tensor]:
    """The codes that a block sees and its weights; a convolution's block is a range of channels, zero elsewhere."""
    if len(layer.spans) == 1:
        return codes, weights
    first, last = start // taps, -(-stop // taps)
    whole = weights
    if (first * taps, last * taps) != (start, stop):
        whole = torch.zeros((last - first) * taps, weights.shape[1])
        whole[start - first * taps : stop - first * taps] = weights
    return (codes[..., first:last] if layer.geometry is None else codes[:, first:last]), whole
