"""What an agent says, as frozen values apart from the generated messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hyle_protos.control import control_pb2 as control
from hyle_protos.inference import inference_pb2 as oip

__all__ = [
    "AgentStatus",
    "DeployResult",
    "DeviceState",
    "Happened",
    "ModelInfo",
    "ModelState",
    "Progress",
    "SelfTest",
    "SlotState",
    "TensorSpec",
]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Outcome of the golden vectors: `residual` is relative root-mean-square, `at_s` seconds since the epoch."""

    passed: bool
    residual: float
    tolerance: float
    at_s: float


@dataclass(frozen=True, slots=True)
class SlotState:
    """One slot and the bundle in it; `digest` is the SHA-256 of its manifest."""

    slot: str
    version: str
    digest: str
    counter: int
    signer: str
    self_test: SelfTest | None


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model: its slots, the one that serves ("" for none), why it is not ready if it is not, and what to know.

    `substrate` is what answers (`hardware`, `twin` or `digital`, "" for nothing), with its calibration's id and age;
    `fault` what is wrong with the device; `trial_left_s` how long the active slot is still on trial, None if it is not.
    `drift_score` and `drift_limit` are None without a drift detector; the rest counts since the agent's start.
    """

    name: str
    active: str
    ready: bool
    reason: str
    slots: tuple[SlotState, ...]
    notice: str = ""
    substrate: str = ""
    calibration: str = ""
    calibration_age_s: float = 0.0
    fault: str = ""
    trial_left_s: float | None = None
    drift_score: float | None = None
    drift_limit: float | None = None
    drift_alarms: int = 0
    recalibrations: int = 0
    fallbacks: int = 0
    rollbacks: int = 0

    @property
    def serving(self) -> SlotState | None:
        """The slot that serves."""
        return next((slot for slot in self.slots if slot.slot == self.active), None)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """The attached device, or its twin, its live readings by name, and what is wrong with it ("" for nothing)."""

    driver: str
    identity: str
    profile: str
    simulated: bool
    tiles: int
    tiles_used: int
    health: Mapping[str, float]
    attached: bool = True
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing that happened on an agent; `model` is "" for its device, `at_s` seconds since the epoch."""

    kind: str
    model: str
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """One agent: its name, version, device, models ordered by name, who has its device, and what happened lately.

    `challenge` is what an override must name now, "" from an agent that takes none; `events` are oldest first.
    """

    node: str
    agent_version: str
    uptime_s: float
    device: DeviceState
    models: tuple[ModelState, ...]
    maintenance: str = ""
    events: tuple[Happened, ...] = ()
    challenge: str = ""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model; a dimension of -1 is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a deployment is; `done` and `total` count bytes while uploading and are 0 otherwise."""

    stage: Literal["plan", "upload", "install", "activate"]
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class DeployResult:
    """What a deployment did; `sent_bytes` of the bundle's `bundle_bytes` had to travel.

    `notice` is what the agent says of the bundle, such as that it was adapted on another device.
    """

    model: str
    version: str
    digest: str
    slot: str
    activated: bool
    self_test: SelfTest | None
    sent_blobs: int
    sent_bytes: int
    bundle_bytes: int
    notice: str = ""


def self_test(report: control.SelfTestReport) -> SelfTest:
    """Read a self-test's report."""
    return SelfTest(report.passed, report.residual, report.tolerance, report.at)


def _slot(message: control.SlotStatus) -> SlotState:
    report = self_test(message.self_test) if message.HasField("self_test") else None
    return SlotState(message.slot, message.version, message.digest, message.counter, message.signer, report)


def _model(message: control.ModelStatus) -> ModelState:
    return ModelState(
        name=message.name,
        active=message.active,
        ready=message.ready,
        reason=message.reason,
        slots=tuple(map(_slot, message.slots)),
        notice=message.notice,
        substrate=message.substrate,
        calibration=message.calibration,
        calibration_age_s=message.calibration_age_s,
        fault=message.fault,
        trial_left_s=message.trial_left_s if message.on_trial else None,
        drift_score=message.drift_score if message.HasField("drift_score") else None,
        drift_limit=message.drift_limit if message.HasField("drift_limit") else None,
        drift_alarms=message.drift_alarms,
        recalibrations=message.recalibrations,
        fallbacks=message.fallbacks,
        rollbacks=message.rollbacks,
    )


def agent_status(message: control.StatusResponse) -> AgentStatus:
    """Read an agent's status."""
    device = message.device
    state = DeviceState(
        driver=device.driver,
        identity=device.identity,
        profile=device.profile,
        simulated=device.simulated,
        tiles=device.tiles,
        tiles_used=device.tiles_used,
        health=dict(device.health),
        attached=device.attached,
        fault=device.fault,
    )
    models = tuple(sorted(map(_model, message.models), key=lambda model: model.name))
    events = tuple(Happened(event.kind, event.model, event.message, event.at) for event in message.events)
    return AgentStatus(
        node=message.node,
        agent_version=message.agent_version,
        uptime_s=message.uptime_s,
        device=state,
        models=models,
        maintenance=message.maintenance,
        events=events,
        challenge=message.challenge,
    )


def model_info(message: oip.ModelMetadataResponse) -> ModelInfo:
    """Read a model's metadata."""
    inputs, outputs = (
        tuple(TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
        for tensors in (message.inputs, message.outputs)
    )
    return ModelInfo(message.name, tuple(message.versions), message.platform, inputs, outputs)
