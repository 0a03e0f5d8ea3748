"""Direct feedback alignment: errors by fixed random matrices, times the derivative of the digital activation.

Source: Nøkland 2016, NeurIPS, arXiv 1609.01596.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, Needs, Task

__all__ = ["METHOD", "FeedbackAlignment"]

NEEDS = Needs(frozenset({"layer reads", "writes"}), "used", True, "1")


@dataclass(frozen=True, slots=True)
class FeedbackAlignment:
    """Direct feedback alignment.

    Attributes:
        epochs: Epochs where the budget names none.
        rate: Highest relative learning rate of Adam.
    """

    epochs: int = 8
    rate: float = 1e-3
    name: str = "dfa"
    summary: str = "direct feedback alignment: errors by fixed random matrices"
    source: str = "Nøkland 2016, NeurIPS, arXiv 1609.01596"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Train; contract: `Method.run`."""
        from hyle_compiler.adapt.feedback import activation_slope, train_by_feedback

        return train_by_feedback(task, activation_slope, self.epochs, self.rate)


METHOD = FeedbackAlignment()
