"""What is loaded and what serves: the one place where requests find their program."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hyle_bundle.manifest import Manifest

from hyle_agent.drift import DriftDetector
from hyle_agent.errors import MaintenanceError, NotFoundError, NotReadyError
from hyle_agent.events import Events
from hyle_agent.model_statistics import ModelStatistics
from hyle_agent.program import Program
from hyle_agent.slots import ModelState
from hyle_agent.snapshot import ModelSnapshot
from hyle_agent.tiles import Span

__all__ = ["Loaded", "Model", "Models", "Tested", "snapshot_model"]

_NAMED = 8


@dataclass(frozen=True, slots=True)
class Tested:
    """A self-test's outcome; `at` is seconds since the epoch, `fault` what is wrong with the device, "" for nothing."""

    passed: bool
    residual: float
    tolerance: float
    at: float = field(default_factory=time.time)
    fault: str = ""


@dataclass(slots=True, eq=False)
class Loaded:
    """A slot's bundle, programmed and ready to run, or what stands in for it.

    `substrate` says what answers: `hardware`, `twin` or `digital`. `folder` holds the slot's files. `on_device` says
    whether it needs the device to answer, `aside` that it never waits for the device thread either. `closed` is written
    on the device thread only. `calibrated_at` is when its compensation was measured, seconds since the epoch, and
    `calibrated_s` the same by `time.monotonic()`, for its age: the clock of a device may be set at any time. `plan` is
    what serving made of its manifest, `notice` what people should know of it.
    """

    digest: str
    manifest: Manifest
    program: Program
    span: Span
    substrate: str
    folder: Path = field(default_factory=Path)
    on_device: bool = True
    aside: bool = False
    closed: bool = False
    calibrated_at: float = field(default_factory=time.time)
    calibrated_s: float = field(default_factory=time.monotonic)
    plan: Any = None
    notice: str = ""

    @property
    def calibration(self) -> str:
        """Id of the compensation that answers: the bundle's digest and when it was measured."""
        return f"{self.digest[:12]}-{int(self.calibrated_at)}"

    def note_calibration(self) -> None:
        """Say that its compensation was measured now."""
        self.calibrated_at, self.calibrated_s = time.time(), time.monotonic()


@dataclass(slots=True)
class Model:
    """One model's state; `serving` is replaced in one step, so that a request sees the old program or the new.

    `fallback` is what stands in for the active slot's program now. `fault` names what is wrong with the device, `drift`
    watches the residual of `drift_of`. A trial ends at `watched_until` (`time.monotonic()`); `failed_before` are the
    requests, and those that the program failed at, when it began. `unloaded` says that the operator wants it out of
    service.
    """

    name: str
    state: ModelState
    serving: Loaded | None = None
    loaded: dict[str, Loaded] = field(default_factory=dict)
    tested: dict[str, Tested] = field(default_factory=dict)
    reason: str = ""
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    fallback: Loaded | None = None
    fault: str = ""
    drift: DriftDetector | None = None
    drift_of: Loaded | None = None
    watched_until: float = 0.0
    failed_before: tuple[int, int] = (0, 0)
    unloaded: bool = False

    @property
    def last_test(self) -> Tested:
        """The last self-test of what serves, or of the active slot if nothing does."""
        record = self.state.slots.get(self.state.active)
        digest = self.serving.digest if self.serving else record.digest if record else ""
        return self.tested.get(digest, Tested(False, math.nan, math.nan, math.nan))


class Holder(Protocol):
    """Who holds the device, so that models may be off it."""

    def refusal(self, name: str) -> MaintenanceError | None:
        """Why a model cannot answer, if that is the reason."""
        ...


class Models:
    """All models of the agent, by name."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self.booted = False
        self.stopping = False
        self.attached = True
        self.lease: Holder | None = None
        self.fault = ""

    @property
    def ready(self) -> bool:
        """Whether the start is over, no stop has begun, and all answer that are active and not unloaded on purpose."""
        wanted = (model for model in self.all() if model.state.active and not model.unloaded)
        return self.booted and not self.stopping and all(map(self.answers, wanted))

    def answers(self, model: Model) -> bool:
        """Whether a model's requests are answered now: it serves, and the device is there if it is needed."""
        loaded = model.serving
        return loaded is not None and not self.stopping and (self.attached or not loaded.on_device)

    def all(self) -> list[Model]:
        """Return the models, ordered by name."""
        return [model for _, model in sorted(self._models.items())]

    def get(self, name: str) -> Model:
        """Return one model.

        Raises:
            NotFoundError: It is not installed.
        """
        model = self._models.get(name)
        if model is None:
            message = f"Model {name[:128]!r} is not installed here; installed: {self._names()}."
            raise NotFoundError(message, remedy="Ask for one of these.")
        return model

    def _names(self) -> str:
        """What is installed, for an error: not so many that no client takes the message."""
        names, more = sorted(self._models)[:_NAMED], len(self._models) - _NAMED
        return ", ".join(names) + (f" and {more} more" if more > 0 else "") or "none"

    def find(self, name: str) -> Model:
        """Return one model, or a new one without slots that is not among the models yet."""
        return self._models.get(name) or Model(name, ModelState())

    def put(self, model: Model) -> None:
        """Add a model, or replace it."""
        self._models[model.name] = model

    def drop(self, name: str) -> None:
        """Forget a model."""
        self._models.pop(name, None)

    def serving(self, name: str, version: str) -> tuple[Model, Loaded]:
        """Find what answers a request.

        Args:
            name: The model.
            version: The version, or "" for whichever serves.

        Raises:
            NotFoundError: The model is not installed, or serves in another version.
            NotReadyError: It cannot answer now.
        """
        model = self.get(name)
        loaded = model.serving
        if loaded is None or self.stopping or not (self.attached or not loaded.on_device):
            held = self.lease.refusal(name) if self.lease is not None and not self.stopping else None
            if held is not None:
                raise held
            away = "" if self.attached else "the device does not answer"
            why = "the agent is stopping" if self.stopping else away or model.reason or "no slot is active"
            message = f"Model {name!r} cannot answer now: {why.rstrip('.')}."
            raise NotReadyError(message, remedy="Activate a slot, or see `hyle status`.")
        if version not in {"", loaded.manifest.version}:
            message = f"Model {name!r} has no version {version[:64]!r}; version {loaded.manifest.version!r} serves."
            raise NotFoundError(message, remedy="Ask for that one, or leave the version out.")
        return model, loaded


def snapshot_model(model: Model, events: Events, *, answers: bool) -> ModelSnapshot:
    """Return a model's aggregates as scalars.

    Args:
        model: The model.
        events: Counts what happened to it.
        answers: Whether its requests are answered now.
    """
    record = model.state.slots.get(model.state.active)
    stats, test, serving, drift = model.statistics, model.last_test, model.serving, model.drift
    return ModelSnapshot(
        name=model.name,
        version=record.version if record else "",
        slot=model.state.active,
        digest=record.digest if record else "",
        ready=answers,
        reason=model.reason,
        requests=stats.requests,
        errors=stats.errors,
        p50_s=stats.latency.quantile(0.5),
        p90_s=stats.latency.quantile(0.9),
        p99_s=stats.latency.quantile(0.99),
        queue_depth=stats.waiting,
        self_test_residual=test.residual,
        self_test_tolerance=test.tolerance,
        energy_j=stats.energy_j,
        installed_slots=tuple(sorted(model.state.slots)),
        substrate=serving.substrate if serving else "",
        calibration=serving.calibration if serving else "",
        calibration_age_s=time.monotonic() - serving.calibrated_s if serving else math.nan,
        fault=model.fault,
        on_trial=model.state.trial is not None,
        drift_score=drift.score if drift else math.nan,
        drift_limit=drift.limit if drift else math.nan,
        drift_alarms=events.count(model.name, "drift-alarm"),
        recalibrations=events.count(model.name, "recalibration"),
        fallbacks=events.count(model.name, "fallback"),
        rollbacks=events.count(model.name, "rollback"),
    )
