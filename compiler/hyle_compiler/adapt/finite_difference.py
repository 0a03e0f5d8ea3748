"""Finite differences: each parameter is moved to both sides; for the few that matter most, those of the last layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hyle_substrates.driver import DeviceError

from hyle_compiler.adapt.method import Adapted, AdaptError, Needs, Outcome, Task

__all__ = ["METHOD", "MOST_PARAMETERS", "FiniteDifference"]

MOST_PARAMETERS = 1000
NEEDS = Needs(frozenset(), "used", False, "2 a parameter")


@dataclass(frozen=True, slots=True)
class FiniteDifference:
    """Descent along central differences, on the gains and offsets of the last layer.

    Attributes:
        steps: Steps where the budget names none.
        reach: Half the distance between two reads, in knobs.
        rate: Step size.
    """

    steps: int = 8
    reach: float = 0.05
    rate: float = 0.1
    name: str = "finite-difference"
    summary: str = "central differences, on the gains and offsets of the last layer"
    source: str = "textbook; Momeni et al. 2025, Nature 645, 53"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Search; contract: `Method.run`."""
        from hyle_compiler.adapt.searching import Search

        search = Search(task, self, [task.layers[-1].placed.layer.name])
        if search.size > MOST_PARAMETERS:
            raise AdaptError(
                f"The last layer has {search.size} parameters; finite differences serve up to {MOST_PARAMETERS}.",
                remedy="Use spsa.",
            )
        knobs, outcome = np.zeros(search.size), _FINISHED
        try:
            for step in range(task.budget.steps or self.steps):
                batch, gradient = search.batch(), np.zeros(search.size)
                for i, e in enumerate(np.eye(search.size) * self.reach):
                    plus = search.loss(knobs + e, batch, step)
                    gradient[i] = (plus - search.loss(knobs - e, batch, step)) / (2.0 * self.reach)
                knobs = knobs - self.rate * gradient
                if not search.consider(knobs):
                    break
        except (KeyboardInterrupt, DeviceError):
            outcome = "stopped"
        return search.result(outcome)


_FINISHED: Outcome = "finished"
METHOD = FiniteDifference()
