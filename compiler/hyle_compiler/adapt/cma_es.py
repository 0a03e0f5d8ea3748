"""Evolution with an adapted covariance, by the library of its author, on the gains and offsets of the last layer.

Source: Hansen 2016, arXiv 1604.00772; PyPI `cma`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hyle_substrates.driver import DeviceError

from hyle_compiler.adapt.method import Adapted, Needs, Outcome, Task

__all__ = ["METHOD", "CmaEs"]

NEEDS = Needs(frozenset(), "used", False, "one a member: 4 + 3 ln(parameters)", "cma")


@dataclass(frozen=True, slots=True)
class CmaEs:
    """Evolution of few parameters.

    Attributes:
        generations: Generations where the budget names no steps.
        spread: First standard deviation, in knobs.
    """

    generations: int = 20
    spread: float = 0.03
    name: str = "cma-es"
    summary: str = "evolution (CMA-ES), on the gains and offsets of the last layer"
    source: str = "Hansen 2016, arXiv 1604.00772"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Search; contract: `Method.run`."""
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cma

        from hyle_compiler.adapt.searching import Search

        search = Search(task, self, [task.layers[-1].placed.layer.name])
        options = {"seed": task.seed + 1, "verbose": -9, "verb_log": 0}
        strategy = cma.CMAEvolutionStrategy(np.zeros(search.size), self.spread, options)
        outcome: Outcome = "finished"
        try:
            for generation in range(task.budget.steps or self.generations):
                batch, members = search.batch(), strategy.ask()
                strategy.tell(members, [search.loss(np.asarray(m), batch, generation) for m in members])
                if not search.consider(np.asarray(strategy.mean)):
                    break
        except (KeyboardInterrupt, DeviceError):
            outcome = "stopped"
        return search.result(outcome)


METHOD = CmaEs()
