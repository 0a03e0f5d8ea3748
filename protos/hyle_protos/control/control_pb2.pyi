from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("node", "agent_version", "uptime_s", "device", "models", "maintenance", "events", "challenge")
    NODE_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    node: str
    agent_version: str
    uptime_s: float
    device: DeviceStatus
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    maintenance: str
    events: _containers.RepeatedCompositeFieldContainer[Event]
    challenge: str
    def __init__(self, node: _Optional[str] = ..., agent_version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., device: _Optional[_Union[DeviceStatus, _Mapping]] = ..., models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., maintenance: _Optional[str] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., challenge: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("kind", "model", "message", "at")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    model: str
    message: str
    at: float
    def __init__(self, kind: _Optional[str] = ..., model: _Optional[str] = ..., message: _Optional[str] = ..., at: _Optional[float] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("driver", "identity", "profile", "simulated", "tiles", "tiles_used", "health", "attached", "fault")
    class HealthEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    TILES_USED_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    driver: str
    identity: str
    profile: str
    simulated: bool
    tiles: int
    tiles_used: int
    health: _containers.ScalarMap[str, float]
    attached: bool
    fault: str
    def __init__(self, driver: _Optional[str] = ..., identity: _Optional[str] = ..., profile: _Optional[str] = ..., simulated: _Optional[bool] = ..., tiles: _Optional[int] = ..., tiles_used: _Optional[int] = ..., health: _Optional[_Mapping[str, float]] = ..., attached: _Optional[bool] = ..., fault: _Optional[str] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "slots", "active", "ready", "reason", "notice", "substrate", "calibration", "calibration_age_s", "fault", "on_trial", "trial_left_s", "drift_score", "drift_limit", "drift_alarms", "recalibrations", "fallbacks", "rollbacks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    SUBSTRATE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_AGE_S_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    ON_TRIAL_FIELD_NUMBER: _ClassVar[int]
    TRIAL_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    DRIFT_SCORE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    DRIFT_ALARMS_FIELD_NUMBER: _ClassVar[int]
    RECALIBRATIONS_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    ROLLBACKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    slots: _containers.RepeatedCompositeFieldContainer[SlotStatus]
    active: str
    ready: bool
    reason: str
    notice: str
    substrate: str
    calibration: str
    calibration_age_s: float
    fault: str
    on_trial: bool
    trial_left_s: float
    drift_score: float
    drift_limit: float
    drift_alarms: int
    recalibrations: int
    fallbacks: int
    rollbacks: int
    def __init__(self, name: _Optional[str] = ..., slots: _Optional[_Iterable[_Union[SlotStatus, _Mapping]]] = ..., active: _Optional[str] = ..., ready: _Optional[bool] = ..., reason: _Optional[str] = ..., notice: _Optional[str] = ..., substrate: _Optional[str] = ..., calibration: _Optional[str] = ..., calibration_age_s: _Optional[float] = ..., fault: _Optional[str] = ..., on_trial: _Optional[bool] = ..., trial_left_s: _Optional[float] = ..., drift_score: _Optional[float] = ..., drift_limit: _Optional[float] = ..., drift_alarms: _Optional[int] = ..., recalibrations: _Optional[int] = ..., fallbacks: _Optional[int] = ..., rollbacks: _Optional[int] = ...) -> None: ...

class SlotStatus(_message.Message):
    __slots__ = ("slot", "version", "digest", "counter", "signer", "self_test")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    SELF_TEST_FIELD_NUMBER: _ClassVar[int]
    slot: str
    version: str
    digest: str
    counter: int
    signer: str
    self_test: SelfTestReport
    def __init__(self, slot: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ..., counter: _Optional[int] = ..., signer: _Optional[str] = ..., self_test: _Optional[_Union[SelfTestReport, _Mapping]] = ...) -> None: ...

class SelfTestReport(_message.Message):
    __slots__ = ("passed", "residual", "tolerance", "at")
    PASSED_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    passed: bool
    residual: float
    tolerance: float
    at: float
    def __init__(self, passed: _Optional[bool] = ..., residual: _Optional[float] = ..., tolerance: _Optional[float] = ..., at: _Optional[float] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("manifest", "signature", "override")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    signature: bytes
    override: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., override: _Optional[bytes] = ...) -> None: ...

class PlanResponse(_message.Message):
    __slots__ = ("missing", "missing_bytes")
    MISSING_FIELD_NUMBER: _ClassVar[int]
    MISSING_BYTES_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[str]
    missing_bytes: int
    def __init__(self, missing: _Optional[_Iterable[str]] = ..., missing_bytes: _Optional[int] = ...) -> None: ...

class BlobChunk(_message.Message):
    __slots__ = ("sha256", "size", "data")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size: int
    data: bytes
    def __init__(self, sha256: _Optional[str] = ..., size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadResponse(_message.Message):
    __slots__ = ("blobs", "bytes")
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    blobs: int
    bytes: int
    def __init__(self, blobs: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class InstallRequest(_message.Message):
    __slots__ = ("manifest", "signature", "override")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    signature: bytes
    override: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., override: _Optional[bytes] = ...) -> None: ...

class InstallResponse(_message.Message):
    __slots__ = ("model", "slot", "digest", "self_test", "notice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SELF_TEST_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    slot: str
    digest: str
    self_test: SelfTestReport
    notice: str
    def __init__(self, model: _Optional[str] = ..., slot: _Optional[str] = ..., digest: _Optional[str] = ..., self_test: _Optional[_Union[SelfTestReport, _Mapping]] = ..., notice: _Optional[str] = ...) -> None: ...

class ActivateRequest(_message.Message):
    __slots__ = ("model", "digest")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    model: str
    digest: str
    def __init__(self, model: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ActivateResponse(_message.Message):
    __slots__ = ("slot",)
    SLOT_FIELD_NUMBER: _ClassVar[int]
    slot: str
    def __init__(self, slot: _Optional[str] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("slot", "version")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    slot: str
    version: str
    def __init__(self, slot: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class SelfTestRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class SelfTestResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: SelfTestReport
    def __init__(self, report: _Optional[_Union[SelfTestReport, _Mapping]] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class RemoveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
