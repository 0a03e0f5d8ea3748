"""Physical local learning: a layer turns towards a fixed random direction on right data and away from it on wrong data.

The loss of a layer is log(1 + exp(-4 (cos(h+, p) - cos(h-, p)))), p a fixed random direction of that layer, as in the
authors' published code (github.com/MomeniAli/PhyLL). Theirs trains digital weights before frozen matter; here the
weights of the matter learn.

Source: Momeni et al. 2023, Science 382, 1297.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, Needs, Task

__all__ = ["METHOD", "Phyll"]

NEEDS = Needs(frozenset({"layer reads", "writes"}), "needed", True, "3")


@dataclass(frozen=True, slots=True)
class Phyll:
    """Physical local learning on the hidden layers, the delta rule on the last.

    Attributes:
        epochs: Epochs where the budget names none.
        rate: Highest relative learning rate of Adam.
        sharpness: Factor of the difference of cosines.
    """

    epochs: int = 8
    rate: float = 1e-3
    sharpness: float = 4.0
    name: str = "phyll"
    summary: str = "physical local learning: cosine to a fixed direction on right and wrong data"
    source: str = "Momeni et al. 2023, Science 382, 1297"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Train; contract: `Method.run`."""
        import torch
        from torch import Tensor
        from torch.nn.functional import cosine_similarity, softplus

        from hyle_compiler.adapt.local import train_by_contrast
        from hyle_compiler.adapt.torch_view import PhysicalLayer

        directions: dict[str, Tensor] = {}

        def loss(layer: PhysicalLayer, positive: Tensor, negative: Tensor) -> Tensor:
            right, wrong = positive.flatten(1), negative.flatten(1)
            if layer.name not in directions:
                generator = torch.Generator().manual_seed(task.seed * 1009 + len(directions))
                directions[layer.name] = torch.randn(1, right.shape[1], generator=generator)
            to = directions[layer.name]
            return softplus(-self.sharpness * (cosine_similarity(right, to) - cosine_similarity(wrong, to))).mean()

        return train_by_contrast(task, loss, self.epochs, self.rate)


METHOD = Phyll()
