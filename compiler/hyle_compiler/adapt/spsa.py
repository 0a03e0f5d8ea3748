"""Simultaneous perturbation: two losses give a gradient along one random direction, which is made again from its seed.

The two reads follow each other, so that drift between them is as small as it can be.

Source: Spall 1992, IEEE Trans. Autom. Control 37, 332; seeds instead of stored directions: Malladi et al. 2023 (MeZO).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_substrates.driver import DeviceError

from hyle_compiler.adapt.method import Adapted, Needs, Outcome, Task

__all__ = ["METHOD", "Spsa", "direction", "estimate"]

NEEDS = Needs(frozenset(), "used", False, "2")


def direction(seed: int, step: int, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The step's direction: `size` values, +1 or -1 a parameter, the same whenever it is asked for."""
    return np.random.default_rng([seed, step]).choice(np.array([-1.0, 1.0]), size)


def estimate(plus: float, minus: float, reach: float, z: Any) -> Any:
    """Gradient along `z` from the losses at `reach` to both sides."""
    return (plus - minus) / (2.0 * reach) * z


@dataclass(frozen=True, slots=True)
class Spsa:
    """Descent along random directions, on a gain and an offset a column.

    Attributes:
        steps: Steps where the budget names none.
        reach: Half the distance between the two reads, in knobs.
        rate: First step size; it falls with the step as (k + 1)^-0.6.
        directions: Directions that are averaged in one step.
    """

    steps: int = 120
    reach: float = 0.02
    rate: float = 2e-3
    directions: int = 2
    name: str = "spsa"
    summary: str = "zeroth order (SPSA/MeZO): two losses a step, directions from seeds, gains and offsets only"
    source: str = "Spall 1992, IEEE TAC 37, 332; Malladi et al. 2023, NeurIPS (MeZO)"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Search; contract: `Method.run`."""
        from hyle_compiler.adapt.searching import Search

        search = Search(task, self)
        knobs = np.zeros(search.size)
        outcome: Outcome = "finished"
        try:
            for step in range(task.budget.steps or self.steps):
                gradient = np.zeros(search.size)
                for number in range(self.directions):
                    z = direction(task.seed, step * self.directions + number, search.size)
                    batch, device = search.batch(), step + number
                    plus = search.loss(knobs + self.reach * z, batch, device)
                    minus = search.loss(knobs - self.reach * z, batch, device)
                    gradient += estimate(plus, minus, self.reach, z) / self.directions
                knobs = knobs - self.rate * (step + 1.0) ** -0.6 * gradient
                if step % 10 == 9 and not search.consider(knobs):
                    break
            search.consider(knobs)
        except (KeyboardInterrupt, DeviceError):
            outcome = "stopped"
        return search.result(outcome)


METHOD = Spsa()
