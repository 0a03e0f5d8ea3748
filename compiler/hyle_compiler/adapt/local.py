"""Local learning: every layer has a loss of its own output, and no gradient passes from one layer to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch

from hyle_compiler.adapt.method import Adapted, AdaptError, Task
from hyle_compiler.adapt.torch_view import PhysicalLayer
from hyle_compiler.adapt.training import Batch, Descent, Loop, objective

__all__ = ["LocalLoss", "marked", "train_by_contrast"]

Tensor: TypeAlias = torch.Tensor
LocalLoss = Callable[[PhysicalLayer, Tensor, Tensor], Tensor]


def marked(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Write a label into the first values of every sample: the largest value at the label's place, zeros elsewhere."""
    flat = x.reshape(len(x), -1).clone()
    flat[:, :classes] = 0.0
    flat[torch.arange(len(x)), labels] = x.abs().max()
    return flat.reshape(x.shape)


def train_by_contrast(task: Task, local: LocalLoss, epochs: int, rate: float) -> Adapted:
    """Train hidden layers on samples with right and with wrong labels, the last on the task itself.

    `local` takes a layer and its answers to positive and to negative data. The model keeps its form: at inference
    samples carry no label.
    """
    from hyle_compiler.adapt.site import Site

    part, labels = task.goal.parts[0], task.goal.labels
    if part.axis is None or labels is None or labels[0].size != 1:
        raise AdaptError("This method needs labels, one class a sample.", remedy="Use layer-wise.")
    loop = Loop(task, epochs)
    site = Site(loop)
    pace = loop.pace()
    descent = Descent(loop.view, rate, pace, None)
    for layer in loop.view.physical:
        layer.local = layer.record = True
    hidden, classes = loop.view.physical[:-1], part.shape[part.axis]

    def answers(batch: Batch, labels: Tensor, classes: int) -> list[Tensor]:
        loop.view.logits(marked(batch.inputs[0], labels, classes), *batch.inputs[1:])
        return [layer.said for layer in hidden if layer.said is not None]

    def step(batch: Batch) -> float:
        assert batch.labels is not None
        loss = objective(loop.view.logits(*batch.inputs), batch)
        if batch.inputs[0][0].numel() < classes:
            raise AdaptError(f"The input has no room for {classes} labels.", remedy="Use layer-wise.")
        right = batch.labels.reshape(-1)
        other = torch.randint(1, classes, right.shape, generator=loop.generator)
        positive = answers(batch, right, classes)
        negative = answers(batch, (right + other) % classes, classes)
        losses = [local(layer, p, n) for layer, p, n in zip(hidden, positive, negative, strict=True)]
        (loss + sum(losses)).backward()
        descent.apply()
        return float(loss.detach())

    adapted = loop.run(step, site, pace=pace, evaluate=site.held_out)
    return replace(adapted, passes=3 * adapted.passes)
