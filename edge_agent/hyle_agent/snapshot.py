"""What an agent says of itself: scalars only, so that no tensor can enter telemetry."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ModelSnapshot", "NodeSnapshot"]


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One model's state and aggregates since the agent started.

    Attributes:
        name: The model's name.
        version: Version of the bundle that serves, "" when none does.
        slot: Slot that serves, `a` or `b`, "" when none does.
        digest: SHA-256 of that bundle's manifest, hexadecimal, "" when none serves.
        ready: Whether requests are answered now.
        reason: Why it is not ready, or what was rolled back last; for people.
        requests: Requests that were executed or refused, whole lifetime of the process.
        errors: How many of those did not end in an answer.
        p50_s: Median latency of answered requests, from arrival to answer, NaN before the first.
        p90_s: The same, 90th percentile.
        p99_s: The same, 99th percentile.
        queue_depth: Requests that wait for the device now.
        self_test_residual: Relative root-mean-square residual of the last self-test, NaN before the first.
        self_test_tolerance: The bound that it is held against.
        energy_j: Estimated energy spent on answered samples since the start.
        installed_slots: Names of the slots that hold a bundle.
        substrate: What answers: `hardware`, `twin` or `digital`, "" when nothing does.
        calibration: Id of the compensation that answers.
        calibration_age_s: Seconds since it was measured, NaN when nothing answers.
        fault: What is wrong with the device, "" for nothing.
        on_trial: Whether the slot is on trial and not marked good yet.
        drift_score: The drift detector's sum, NaN without one.
        drift_limit: The sum above which it is an alarm.
        drift_alarms: Drift alarms since the agent started.
        recalibrations: Calibrations that the agent decided on itself.
        fallbacks: How often something stood in for the device.
        rollbacks: How often the agent, or its operator, went back to the old slot.
    """

    name: str
    version: str
    slot: str
    digest: str
    ready: bool
    reason: str
    requests: int
    errors: int
    p50_s: float
    p90_s: float
    p99_s: float
    queue_depth: int
    self_test_residual: float
    self_test_tolerance: float
    energy_j: float
    installed_slots: tuple[str, ...]
    substrate: str = ""
    calibration: str = ""
    calibration_age_s: float = math.nan
    fault: str = ""
    on_trial: bool = False
    drift_score: float = math.nan
    drift_limit: float = math.nan
    drift_alarms: int = 0
    recalibrations: int = 0
    fallbacks: int = 0
    rollbacks: int = 0


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """One agent's state now.

    Attributes:
        node: The node's name in the fleet.
        agent_version: Version of the agent's software.
        uptime_s: Seconds since the agent was ready.
        rss_bytes: Resident memory of the process.
        driver: Name of the driver that owns the device.
        profile: Name of the device's profile.
        simulated: Whether the device is a digital twin.
        tiles_used: Tiles that hold a programmed layer.
        tiles: Tiles that the device has.
        models: All models that have a slot, ordered by name.
        device_attached: Whether the device answers.
        device_fault: What is wrong with it, "" for nothing.
    """

    node: str
    agent_version: str
    uptime_s: float
    rss_bytes: int
    driver: str
    profile: str
    simulated: bool
    tiles_used: int
    tiles: int
    models: tuple[ModelSnapshot, ...]
    device_attached: bool = True
    device_fault: str = ""
