"""A compiled model as a torch module: the same physics functions, with a gradient past them.

Digital operators come from onnx2fx; physical layers are one operator of our own, registered with it. Forward, a layer
does what the device does; backward, it is the matrix product that was meant (forward noisy, backward clean: the
extended straight-through estimator of arXiv 2508.11940).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx2fx
import onnx_ir as ir
import torch
from hyle_substrates import io
from hyle_substrates.profile import Profile

from hyle_compiler.adapt.goal import Output, floating_outputs
from hyle_compiler.adapt.method import AdaptError
from hyle_compiler.adapt.products import multiplied
from hyle_compiler.adapt.reading import Read
from hyle_compiler.calibrate import Calibrated

__all__ = ["Held", "Matter", "PhysicalLayer", "TorchView", "torch_view"]

DOMAIN = "hyle.view"
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
        full_scale: Input range, where it is one for all samples.
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
        # Not every method learns it: who does lets it have a gradient.
        self.full_scale = torch.nn.Parameter(torch.tensor(float(calibrated.full_scale)), requires_grad=False)
        self.spans = tuple(block.rows for block in calibrated.placed.blocks)
        self.matter: Matter | None = None
        self.local = self.record = False
        self.seen: Tensor | None = None
        self.said: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: `(..., rows)`, or batch, channels, spatial for a convolution."""
        x = x.detach() if self.local else x
        y = self.exact(x) if self.matter is None else Read.apply(x, self.matrix, self.bias, self.full_scale, self)
        if self.record:
            self.seen, self.said = x, y
        return y

    def exact(self, x: Tensor) -> Tensor:
        """The float layer."""
        return self.product(x, self.matrix) + self.per_column(self.bias)

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Multiply by a matrix of whole rows (of this layer or of a block of channels)."""
        return multiplied(x, matrix, self.geometry)

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


class TorchView(torch.nn.Module):
    """The model: its graph, its physical layers in order, and the outputs that can be learnt."""

    def __init__(self, graph: torch.fx.GraphModule, layers: Sequence[PhysicalLayer], outputs: Sequence[Output]) -> None:
        super().__init__()
        self.graph, self.outputs = graph, tuple(outputs)
        self.layers = torch.nn.ModuleList(layers)

    @property
    def physical(self) -> list[PhysicalLayer]:
        """The physical layers in graph order."""
        return list(self.layers)  # type: ignore[arg-type]

    def answers(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs that can be learnt, as the model gives them."""
        given = self.graph(*inputs)
        given = given if isinstance(given, (tuple, list)) else (given,)
        return [given[output.index] for output in self.outputs]

    def logits(self, *inputs: Tensor) -> Tensor:
        """All outputs of a sample in one row; probabilities of a softmax as their logarithms."""
        flat = [answer.reshape(len(inputs[0]), -1) for answer in self.answers(*inputs)]
        both = zip(self.outputs, flat, strict=True)
        return torch.cat([torch.log(a.clamp_min(1e-12)) if o.softmax else a for o, a in both], dim=1)

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
    return TorchView(graph, modules, floating_outputs(model))


def _handler(module: PhysicalLayer) -> Any:
    def handle(builder: Any, node: Any) -> Any:
        name = builder.register_submodule(f"physical_{module.name}", module)
        return builder.call_module(name, args=(builder.get_value(node.input[0]),))

    return handle
