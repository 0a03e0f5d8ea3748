"""Whether a device drifts: the residual of its golden vectors, against what it was after the last calibration.

The first `LEARNED` self-tests after a calibration are the reference. They give a mean and a standard deviation that are
themselves uncertain, which would make false alarms more frequent than stated; so that the CUSUM takes instead the
upper confidence limits of both, each at `CONFIDENCE`. With probability 1 - 2·(1 - CONFIDENCE) or more over references
the true mean and deviation lie below these limits, a standardised residual is then no larger than a normal one, and
the rate of false alarms is at most the stated one. What it costs is delay.

The reference is taken at the pace of the schedule, not at once, so that it holds the slow noise (1/f) of the matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hyle_agent.cusum import Cusum, limit_for

__all__ = ["CONFIDENCE", "LEARNED", "DriftDetector", "Reference", "learn"]

LEARNED = 24
CONFIDENCE = 0.95
# Upper 95 % points for 24 observations: Student's t with 23 degrees of freedom; 23 over the 5 % point of chi square.
_T_95 = 1.7139
_CHI2_05 = 13.0905
# A shift of less than this part of the tolerance is not worth an alarm, however quiet the device.
_LEAST_STD = 0.01


@dataclass(frozen=True, slots=True)
class Reference:
    """Upper confidence limits of the residual's mean and standard deviation in control."""

    mean: float
    std: float


@dataclass(slots=True)
class DriftDetector:
    """Watches one model's residual.

    Args:
        arl: Mean number of self-tests up to a false alarm, ≥ 2.
    """

    arl: float
    reference: Reference | None = None
    alarms: int = 0
    _cusum: Cusum = field(init=False)
    _seen: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cusum = Cusum(limit_for(self.arl))

    @property
    def score(self) -> float:
        """The running sum, in standard deviations."""
        return self._cusum.score

    @property
    def limit(self) -> float:
        """The sum above which there is an alarm."""
        return self._cusum.limit

    def restart(self) -> None:
        """Learn a new reference: the device was calibrated, or is another."""
        self.reference, self._cusum.score = None, 0.0
        self._seen.clear()

    def observe(self, residual: float, tolerance: float) -> bool:
        """Take in the residual of one passed self-test; whether it is an alarm.

        Args:
            residual: Relative root-mean-square residual, finite.
            tolerance: The bound that it is held against; the scale of what matters.
        """
        if self.reference is None:
            self._seen.append(residual)
            if len(self._seen) >= LEARNED:
                self.reference = learn(self._seen, _LEAST_STD * tolerance)
                self._seen.clear()
            return False
        alarm = self._cusum.add((residual - self.reference.mean) / self.reference.std)
        self.alarms += alarm
        return alarm


def learn(residuals: Sequence[float], least_std: float) -> Reference:
    """Return the upper confidence limits from `LEARNED` residuals in control.

    Args:
        residuals: The reference sample.
        least_std: Smallest standard deviation that is believed, > 0 unless all residuals may be 0.
    """
    count = len(residuals)
    mean = sum(residuals) / count
    std = math.sqrt(sum((value - mean) ** 2 for value in residuals) / (count - 1))
    upper = std * math.sqrt((count - 1) / _CHI2_05)
    return Reference(mean + _T_95 * std / math.sqrt(count), max(upper, least_std, 1e-12))
