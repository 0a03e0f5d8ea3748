"""In-silico, noise-aware training: forward on a twin that is another device on every pass, backward on clean weights.

Source: Joshi et al. 2020, Nat. Commun. 11, 2473 (noise injection); Rasch et al. 2023, Nat. Commun. 14, 5282 (weight
clipping, static ranges); arXiv 2508.11940 (forward noisy, backward clean).
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, Needs, Task

__all__ = ["METHOD", "InSilico"]

NEEDS = Needs(frozenset({"model", "gradient"}), "used", True, "0 on the device, 1 on the twin")


@dataclass(frozen=True, slots=True)
class InSilico:
    """Noise-aware training on the twin.

    Attributes:
        epochs: Epochs where the budget names none.
        rate: Highest relative learning rate of Adam.
        clip: Weights are clipped at so many standard deviations of their column.
        ranges: Whether layers with one input range for all samples learn it.
    """

    epochs: int = 8
    rate: float = 1e-2
    clip: float = 3.0
    ranges: bool = True
    name: str = "in-silico"
    summary: str = "noise-aware training on the twin: forward noisy, backward clean"
    source: str = "Joshi et al. 2020, Nat. Commun. 11, 2473; arXiv 2508.11940"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Train; contract: `Method.run`."""
        from hyle_compiler.adapt.matter import Drawn
        from hyle_compiler.adapt.training import Batch, Descent, Loop, objective

        loop = Loop(task, self.epochs)
        matter = Drawn(task.profile, task.compensation, loop.generator)
        loop.view.put(matter)
        pace = loop.pace()
        descent = Descent(loop.view, self.rate, pace, self.clip, ranges=self.ranges)

        def step(batch: Batch) -> float:
            loss = objective(loop.view.logits(*batch.inputs), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            descent.apply()
            return float(loss.detach())

        return loop.run(step, matter, pace=pace)


METHOD = InSilico()
