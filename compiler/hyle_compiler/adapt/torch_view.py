"""A compiled model as a torch module: the same physics functions, with a gradient past them.

Digital operators come from onnx2fx; physical layers are one operator of our own, registered with it. Forward, a layer
does what the device does; backward, it is the matrix product that was meant (forward noisy, backward clean: the
extended straight-through estimator of arXiv 2508.11940).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx2fx
import onnx_ir as ir
import torch
from hyle_substrates import io
from hyle_substrates.host import Geometry
from hyle_substrates.profile import Profile

from hyle_compiler.adapt.method import AdaptError
from hyle_compiler.calibrate import Calibrated

__all__ = ["Held", "Matter", "PhysicalLayer", "TorchView", "deviates", "torch_view"]

DOMAIN = "hyle.view"
TABLE = 2**22
Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, slots=True)
class Held:
    """One layer as some matter holds it, corrected.

    `weights`: rows by columns a block, highest weight = 1; `gain`: value of an ADC code, columns, a block; `offset`:
    columns; `noise`: standard deviation of a read in ADC codes.
    """

    weights: tuple[Tensor, ...]
    gain: tuple[Tensor, ...]
    offset: Tensor
    noise: float


class Matter(Protocol):
    """Where a layer's weights come from on every pass: a twin that is drawn anew, or a device."""

    def hold(self, layer: PhysicalLayer) -> Held:
        """The layer as it is held now."""
        ...

    def answers(self, layer: PhysicalLayer, x: Tensor) -> Tensor | None:
        """What a device answers to `x`, where only it can say; None to work it out from `hold`."""
        ...


class PhysicalLayer(torch.nn.Module):
    """A layer on physics: parameters in the units of the float model, an input range, and the matter that holds it.

    Attributes:
        matrix: Rows by columns.
        bias: One value a column.
        matter: None for the float layer.
        local: Cut the gradient at the layer's input, so that it learns from its own output only.
        record: Keep the last input and output in `seen` and `said`.
    """

    def __init__(self, calibrated: Calibrated, profile: Profile) -> None:
        super().__init__()
        candidate = calibrated.placed.layer
        self.name, self.calibrated, self.profile = candidate.name, calibrated, profile
        self.geometry = candidate.geometry
        self.matrix = torch.nn.Parameter(torch.tensor(np.ascontiguousarray(candidate.matrix)))
        self.bias = torch.nn.Parameter(torch.tensor(np.array(candidate.bias, dtype=np.float32)))
        self.register_buffer("full_scale", torch.tensor(float(calibrated.full_scale)))
        self.spans = tuple(block.rows for block in calibrated.placed.blocks)
        self.matter: Matter | None = None
        self.local = self.record = False
        self.seen: Tensor | None = None
        self.said: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: `(..., rows)`, or batch, channels, spatial for a convolution."""
        x = x.detach() if self.local else x
        y = self.exact(x) if self.matter is None else _Read.apply(x, self.matrix, self.bias, self)
        if self.record:
            self.seen, self.said = x, y
        return y

    def exact(self, x: Tensor) -> Tensor:
        """The float layer."""
        return self.product(x, self.matrix) + self.per_column(self.bias)

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Multiply by a matrix of whole rows (of this layer or of a block of channels)."""
        if self.geometry is None:
            return x @ matrix
        return _convolve(x, _kernels(matrix, self.geometry), self.geometry)

    def per_column(self, value: Tensor) -> Tensor:
        """Shape a value a column so that it broadcasts against the output."""
        return value if self.geometry is None else value.reshape(1, -1, *[1] * len(self.geometry.kernel))

    def relative(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Each block's targets on the device's grid (highest weight = 1) and the weight of the highest level."""
        weights = self.profile.weights
        found = []
        for start, stop in self.spans:
            part = self.matrix.detach()[start:stop]
            if weights.levels == 0:
                found.append((part, torch.ones(part.shape[1])))
                continue
            largest = part.abs().amax(0) if weights.scale == "column" else part.abs().max().expand(part.shape[1])
            top = torch.where(largest > 0.0, largest, torch.ones_like(largest))
            found.append((io.round_through(part / top * weights.levels) / weights.levels, top))
        return tuple(found)


class _Read(torch.autograd.Function):
    """Forward: converters, matter and noise. Backward: the clean product, at the codes that drove the rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, bias: Tensor, layer: PhysicalLayer) -> Tensor:
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
        codes, full_scale, matrix = ctx.saved_tensors
        layer: PhysicalLayer = ctx.layer
        unit = full_scale * layer.profile.dac_unit
        shared = unit.ndim == 0
        x = codes if shared else codes * unit
        grad_x, grad_matrix, grad_bias = _vjp(layer, x, matrix, grad, ctx.needs_input_grad[0])
        grad_matrix = grad_matrix * unit if shared else grad_matrix
        if grad_x is not None and layer.profile.dac.levels and not layer.calibrated.dynamic:
            highest = float(layer.profile.dac.levels)
            grad_x = torch.ops.aten.hardtanh_backward(grad_x, codes, -highest, highest)
        return grad_x, grad_matrix, grad_bias, None


def _codes(x: Tensor, full_scale: Tensor, levels: int) -> Tensor:
    """`io.encode` in place: half the time of a training step went into copies of what it has just made."""
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


def _vjp(
    layer: PhysicalLayer, x: Tensor, matrix: Tensor, grad: Tensor, want_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of the clean layer with respect to input, matrix and bias."""
    if layer.geometry is None:
        flat, rows = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        return (grad @ matrix.T if want_x else None), rows.T @ flat, flat.sum(0)
    geometry, n = layer.geometry, len(layer.geometry.kernel)
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


class TorchView(torch.nn.Module):
    """The model: its graph, its physical layers in order, and whether its last operator is a softmax."""

    def __init__(self, graph: torch.fx.GraphModule, layers: Sequence[PhysicalLayer], softmax: bool) -> None:
        super().__init__()
        self.graph, self.softmax = graph, softmax
        self.layers = torch.nn.ModuleList(layers)

    @property
    def physical(self) -> list[PhysicalLayer]:
        """The physical layers in graph order."""
        return list(self.layers)  # type: ignore[arg-type]

    def logits(self, *inputs: Tensor) -> Tensor:
        """First output as unnormalised log-probabilities, samples by classes."""
        out = self.graph(*inputs)
        out = out[0] if isinstance(out, (tuple, list)) else out
        flat = out.reshape(len(inputs[0]), -1, out.shape[-1])[:, 0]
        return torch.log(flat.clamp_min(1e-12)) if self.softmax else flat

    def put(self, matter: Matter | None) -> None:
        """Let every layer be held by `matter`."""
        for layer in self.physical:
            layer.matter = matter

    @contextmanager
    def on(self, matter: Matter | None) -> Iterator[None]:
        """Put the layers on other matter for a while."""
        before = [layer.matter for layer in self.physical]
        self.put(matter)
        try:
            yield
        finally:
            for layer, old in zip(self.physical, before, strict=True):
                layer.matter = old


def torch_view(model: ir.Model, layers: Sequence[Calibrated], profile: Profile) -> TorchView:
    """Make a torch module of a simplified model and its physical layers.

    Args:
        model: The simplified float model; not changed.
        layers: Its physical layers, calibrated.
        profile: The target.
    """
    modules = [PhysicalLayer(layer, profile) for layer in layers]
    by_output = {str(layer.placed.layer.y.name): index for index, layer in enumerate(layers)}
    proto = ir.to_proto(model)
    for node in proto.graph.node:
        index = by_output.get(node.output[0])
        if index is not None:
            x = node.input[0]
            node.ClearField("input")
            node.ClearField("attribute")
            node.input.append(x)
            node.op_type, node.domain = f"Layer{index}", DOMAIN
    proto.opset_import.add(domain=DOMAIN, version=1)
    for index, module in enumerate(modules):
        onnx2fx.register_op(f"Layer{index}", handler=_handler(module), domain=DOMAIN)
    try:
        graph = onnx2fx.convert(proto)
    except onnx2fx.Onnx2FxError as error:
        raise AdaptError(
            f"torch cannot run this model: {error}", remedy="Use a method without torch (`hyle methods`)."
        ) from error
    finally:
        for index in range(len(modules)):
            onnx2fx.unregister_op(f"Layer{index}", domain=DOMAIN)
    return TorchView(graph, modules, proto.graph.node[-1].op_type == "Softmax")


def _handler(module: PhysicalLayer) -> Any:
    def handle(builder: Any, node: Any) -> Any:
        name = builder.register_submodule(f"physical_{module.name}", module)
        return builder.call_module(name, args=(builder.get_value(node.input[0]),))

    return handle
