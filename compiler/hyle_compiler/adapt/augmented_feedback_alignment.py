"""Augmented direct feedback alignment: as DFA, with any nonlinearity in place of the unknown derivative.

Source: Nakajima et al. 2022, Nat. Commun. 13, 7847.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hyle_compiler.adapt.method import Adapted, Needs, Task

__all__ = ["METHOD", "AugmentedFeedbackAlignment"]

NEEDS = Needs(frozenset({"layer reads", "writes"}), "used", True, "1")


def any_slope(layer: Any, y: Any) -> Any:
    """A logistic function of the answer over its spread; it knows nothing of the layer."""
    import torch

    return torch.sigmoid(y / (y.std() + 1e-12))


@dataclass(frozen=True, slots=True)
class AugmentedFeedbackAlignment:
    """Direct feedback alignment for matter whose derivative nobody knows.

    Attributes:
        epochs: Epochs where the budget names none.
        rate: Highest relative learning rate of Adam.
    """

    epochs: int = 8
    rate: float = 1e-3
    name: str = "augmented-dfa"
    summary: str = "direct feedback alignment without any derivative of the device"
    source: str = "Nakajima et al. 2022, Nat. Commun. 13, 7847"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Train; contract: `Method.run`."""
        from hyle_compiler.adapt.feedback import train_by_feedback

        return train_by_feedback(task, any_slope, self.epochs, self.rate)


METHOD = AugmentedFeedbackAlignment()
