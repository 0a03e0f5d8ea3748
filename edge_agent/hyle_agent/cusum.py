"""A one-sided CUSUM whose false alarms have a stated rate, and the two formulas that the rate comes from.

Observations are standardised: in control they have mean 0 and standard deviation 1. The sum grows by each observation
less `reference` and never falls below 0; above `limit` it is an alarm. In control the mean number of observations up to
a false alarm is the average run length (ARL).

Source: Page 1954, Biometrika 41, 100; Siegmund 1985, Sequential Analysis, ch. 2 (ARL with the overshoot 0.583 a side);
Brook and Evans 1972, Biometrika 59, 539 (ARL by a Markov chain).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["REFERENCE", "Cusum", "chain_arl", "limit_for", "siegmund_arl"]

REFERENCE = 0.5
OVERSHOOT = 1.166
_STATES = 200


@dataclass(slots=True)
class Cusum:
    """The running sum.

    Args:
        limit: Sum above which there is an alarm, in standard deviations, > 0.
        reference: What each observation is reduced by: half the shift that is to be found soonest.
    """

    limit: float
    reference: float = REFERENCE
    score: float = 0.0

    def add(self, observation: float) -> bool:
        """Take in one standardised observation; whether there is an alarm, after which the sum begins anew."""
        self.score = max(0.0, self.score + observation - self.reference)
        if self.score <= self.limit:
            return False
        self.score = 0.0
        return True


def siegmund_arl(limit: float, shift: float = 0.0, reference: float = REFERENCE) -> float:
    """Return the mean number of observations up to an alarm, Siegmund's approximation.

    Args:
        limit: As of `Cusum`.
        shift: Mean of the standardised observations, 0 in control.
        reference: As of `Cusum`.
    """
    delta, width = shift - reference, limit + OVERSHOOT
    if abs(delta) < 1e-6:
        return width * width
    return (math.exp(-2.0 * delta * width) + 2.0 * delta * width - 1.0) / (2.0 * delta * delta)


def limit_for(arl: float, reference: float = REFERENCE) -> float:
    """Return the limit whose in-control ARL is `arl`, by bisection of `siegmund_arl`.

    Args:
        arl: Mean number of observations up to a false alarm, ≥ 2.
        reference: As of `Cusum`.
    """
    low, high = 0.0, 1.0
    while siegmund_arl(high, reference=reference) < arl:
        high *= 2.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if siegmund_arl(middle, reference=reference) < arl else (low, middle)
    return high


def chain_arl(limit: float, shift: float = 0.0, reference: float = REFERENCE, states: int = _STATES) -> float:
    """Return the same mean from a Markov chain over the sum's value, exact as `states` grows, for normal observations.

    Args:
        limit: As of `Cusum`.
        shift: Mean of the standardised observations.
        reference: As of `Cusum`.
        states: Cells of the sum's range.
    """
    width = 2.0 * limit / (2 * states - 1)
    values = np.arange(states) * width
    steps = values[None, :] - values[:, None] + reference - shift
    upper = np.vectorize(_normal)(steps + 0.5 * width)
    lower = np.vectorize(_normal)(steps - 0.5 * width)
    moves = upper - lower
    moves[:, 0] = upper[:, 0]
    return float(np.linalg.solve(np.eye(states) - moves, np.ones(states))[0])


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))
