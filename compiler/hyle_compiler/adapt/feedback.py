"""Direct feedback: the output's error reaches every layer by a fixed random matrix, all layers at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch

from hyle_compiler.adapt.method import Adapted, Task
from hyle_compiler.adapt.torch_view import PhysicalLayer, TorchView
from hyle_compiler.adapt.training import Batch, Descent, Loop, objective

__all__ = ["Slope", "activation_slope", "feedback", "train_by_feedback"]

Tensor: TypeAlias = torch.Tensor
Slope = Callable[[PhysicalLayer, Tensor], Tensor]
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": lambda y: (y > 0.0).to(y.dtype),
    "Sigmoid": lambda y: torch.sigmoid(y) * (1.0 - torch.sigmoid(y)),
    "Tanh": lambda y: 1.0 - torch.tanh(y) ** 2,
}


def activation_slope(layer: PhysicalLayer, y: Tensor) -> Tensor:
    """Derivative of the digital activation that follows a layer, at what the layer answered; 1 where none does."""
    uses = layer.calibrated.placed.layer.y.uses()
    names = {use.node.op_type for use in uses}
    return SLOPES[names.pop()](y) if len(names) == 1 and names <= set(SLOPES) else torch.ones_like(y)


def feedback(view: TorchView, matrices: dict[str, Tensor], slope: Slope, batch: Batch, seed: int) -> Tensor:
    """Put the gradients of one batch on the layers' parameters; returns the loss.

    The last layer has the true gradient of its output, the others the projected error times the slope.
    """
    for layer in view.physical:
        layer.local = layer.record = True
    logits = view.logits(*batch.inputs)
    free = logits.detach().requires_grad_()
    loss = objective(free, batch)
    (error,) = torch.autograd.grad(loss, free)
    said, deltas = [logits], [error]
    for number, layer in enumerate(view.physical[:-1]):
        y = layer.said
        assert y is not None
        if layer.name not in matrices:
            generator = torch.Generator().manual_seed(seed * 1009 + number)
            shape = (error.shape[1], y[0].numel())
            matrices[layer.name] = torch.randn(shape, generator=generator) / math.sqrt(error.shape[1])
        projected = (error @ matrices[layer.name]).reshape(y.shape)
        said.append(y)
        deltas.append(projected * slope(layer, y.detach()))
    torch.autograd.backward(said, deltas)
    return loss.detach()


def train_by_feedback(task: Task, slope: Slope, epochs: int, rate: float) -> Adapted:
    """Train a task by direct feedback."""
    from hyle_compiler.adapt.site import Site

    loop = Loop(task, epochs)
    site = Site(loop)
    pace = loop.pace()
    descent = Descent(loop.view, rate, pace, None)
    matrices: dict[str, Tensor] = {}

    def step(batch: Batch) -> float:
        loss = feedback(loop.view, matrices, slope, batch, task.seed)
        descent.apply()
        return float(loss)

    return loop.run(step, site, pace=pace, evaluate=site.held_out)
