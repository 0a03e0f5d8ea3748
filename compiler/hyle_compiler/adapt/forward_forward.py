"""Forward-forward: a layer's goodness (mean square of what it answers) is raised on right and lowered on wrong data.

Source: Hinton 2022, arXiv 2212.13345.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, Needs, Task

__all__ = ["METHOD", "ForwardForward"]

NEEDS = Needs(frozenset({"layer reads", "writes"}), "needed", True, "3")


@dataclass(frozen=True, slots=True)
class ForwardForward:
    """Forward-forward on the hidden layers, the delta rule on the last.

    Attributes:
        epochs: Epochs where the budget names none.
        rate: Highest relative learning rate of Adam.
    """

    epochs: int = 8
    rate: float = 1e-3
    name: str = "forward-forward"
    summary: str = "forward-forward: local goodness on samples with right and wrong labels"
    source: str = "Hinton 2022, arXiv 2212.13345"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Train; contract: `Method.run`."""
        from torch import Tensor, cat
        from torch.nn.functional import softplus

        from hyle_compiler.adapt.local import train_by_contrast
        from hyle_compiler.adapt.torch_view import PhysicalLayer

        def loss(layer: PhysicalLayer, positive: Tensor, negative: Tensor) -> Tensor:
            right, wrong = (y.clamp_min(0.0).square().flatten(1).mean(1) for y in (positive, negative))
            threshold = cat([right, wrong]).detach().mean().clamp_min(1e-12)
            return softplus(1.0 - right / threshold).mean() + softplus(wrong / threshold - 1.0).mean()

        return train_by_contrast(task, loss, self.epochs, self.rate)


METHOD = ForwardForward()
