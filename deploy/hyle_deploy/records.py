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
    """One model: its slots, the one that serves ("" for none), why it is not ready if it is not, and what to know."""

    name: str
    active: str
    ready: bool
    reason: str
    slots: tuple[SlotState, ...]
    notice: str = ""

    @property
    def serving(self) -> SlotState | None:
        """The slot that serves."""
        return next((slot for slot in self.slots if slot.slot == self.active), None)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """The attached device, or its twin, and its live readings by name."""

    driver: str
    identity: str
    profile: str
    simulated: bool
    tiles: int
    tiles_used: int
    health: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """One agent: its name, version, device, models ordered by name, and who has its device for maintenance."""

    node: str
    agent_version: str
    uptime_s: float
    device: DeviceState
    models: tuple[ModelState, ...]
    maintenance: str = ""


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
    slots = tuple(map(_slot, message.slots))
    return ModelState(message.name, message.active, message.ready, message.reason, slots, message.notice)


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
    )
    models = tuple(sorted(map(_model, message.models), key=lambda model: model.name))
    return AgentStatus(message.node, message.agent_version, message.uptime_s, state, models, message.maintenance)


def model_info(message: oip.ModelMetadataResponse) -> ModelInfo:
    """Read a model's metadata."""
    inputs, outputs = (
        tuple(TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
        for tensors in (message.inputs, message.outputs)
    )
    return ModelInfo(message.name, tuple(message.versions), message.platform, inputs, outputs)
