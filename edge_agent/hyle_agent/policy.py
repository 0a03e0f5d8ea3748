"""How an agent looks after what it serves: what the operator decided of trials, drift and fallbacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Fallback", "Policy"]

Fallback = Literal["none", "twin", "digital"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's decisions; the defaults look after nothing.

    Attributes:
        watch_s: How long a newly activated slot is on trial, seconds; 0 for no trial.
        watch_deaths: Deaths of the process during the trial after which the old slot serves again.
        test_s: Time between self-tests of what serves, seconds; 0 for none.
        false_alarm_s: Mean time between two false drift alarms, seconds; 0 for no drift detection.
        recalibrate: Whether compensation may be measured anew without being asked.
        fallback: What answers in place of a device that cannot: nothing, its twin, or the compiled model computed
            exactly.
        device_timeout_s: Longest time that one self-test or one step of a calibration may take on the device, seconds.
        node: The agent's name, which an override must name.
    """

    watch_s: float = 0.0
    watch_deaths: int = 3
    test_s: float = 0.0
    false_alarm_s: float = 0.0
    recalibrate: bool = True
    fallback: Fallback = "none"
    device_timeout_s: float = 60.0
    node: str = "agent"
