"""A black box as a layer of a torch model: forward on the device, backward through a model of it that may be wrong.

Source: Wright et al. 2022, Nature 601, 549 (physics-aware training); the Jacobian is that of the model at the inputs
and parameters that drove the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from hyle_substrates.driver import BlackBox

__all__ = ["BlackBoxLayer"]

Tensor: TypeAlias = torch.Tensor
Model = Callable[[Tensor, Tensor], Tensor]


class BlackBoxLayer(torch.nn.Module):
    """One pass through a black box.

    Attributes:
        box: The device; None to work out the model instead, forward too (in silico).
        passes: Samples sent through the device.

    Args:
        model: Parameters (batch by p) and inputs (batch by n) to readings (batch by m), differentiable.
        low: Smallest value that may be driven; values beyond are clipped, with no gradient there.
        high: Largest.
        box: The device.
    """

    def __init__(self, model: Model, low: float, high: float, box: BlackBox | None = None) -> None:
        super().__init__()
        self.model, self.box, self.passes = model, box, 0
        self._low, self._high = low, high

    def forward(self, inputs: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Drive: `inputs` is batch by n; `parameters` batch by p, or p for all samples alike."""
        given = inputs.new_zeros(0) if parameters is None else parameters
        values = given.expand(len(inputs), -1) if given.ndim == 1 else given
        values, inputs = values.clamp(self._low, self._high), inputs.clamp(self._low, self._high)
        if self.box is None:
            return self.model(values, inputs)
        said: Tensor = _Drive.apply(values, inputs, self)
        return said


class _Drive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameters: Tensor, inputs: Tensor, layer: BlackBoxLayer) -> Tensor:
        assert layer.box is not None
        ctx.save_for_backward(parameters, inputs)
        ctx.layer = layer
        layer.passes += len(inputs)
        driven = [np.asarray(x.detach().cpu().numpy(), dtype=np.float64) for x in (parameters, inputs)]
        return torch.as_tensor(layer.box.respond(*driven), dtype=inputs.dtype, device=inputs.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        with torch.enable_grad():
            parameters, inputs = (x.detach().requires_grad_() for x in ctx.saved_tensors)
            said = ctx.layer.model(parameters, inputs)
        found = torch.autograd.grad(said, (parameters, inputs), grad, allow_unused=True)
        return *found, None
