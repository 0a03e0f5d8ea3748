"""The control service's calls: thin; what they do is in `control`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable

from hyle_protos.control import control_pb2 as pb

from hyle_agent.engine import Call, Method, Service
from hyle_agent.errors import RequestError, StoreError
from hyle_agent.events import Events
from hyle_agent.leases import Leases
from hyle_agent.models import Model, Models, Tested
from hyle_agent.operator_thread import OperatorThread
from hyle_agent.snapshot import ModelSnapshot, NodeSnapshot
from hyle_agent.upload import Receipt

__all__ = ["SERVICE", "ControlService"]

SERVICE = "hyle.control.v1.Control"


class ControlService:
    """The operator's calls.

    Args:
        operator: Runs them.
        models: What is installed.
        snapshot: Says how the node is.
        device: Returns the device's identity and its last readings, by name.
        leases: Say who has the device.
        events: What happened.
    """

    def __init__(
        self,
        operator: OperatorThread,
        models: Models,
        snapshot: Callable[[], NodeSnapshot],
        device: Callable[[], tuple[str, dict[str, float]]],
        leases: Leases,
        events: Events,
    ) -> None:
        self._operator = operator
        self._models = models
        self._snapshot = snapshot
        self._device = device
        self._leases = leases
        self._events = events

    def service(self) -> Service:
        """Return the table of methods."""
        return Service(
            SERVICE,
            {
                "Status": Method(pb.StatusRequest, pb.StatusResponse, self._status),
                "Plan": Method(pb.PlanRequest, pb.PlanResponse, self._plan, role="operate"),
                "Upload": Method(pb.BlobChunk, pb.UploadResponse, self._upload, streams_in=True, role="operate"),
                "Install": Method(pb.InstallRequest, pb.InstallResponse, self._install, role="operate"),
                "Activate": Method(pb.ActivateRequest, pb.ActivateResponse, self._activate, role="operate"),
                "Rollback": Method(pb.RollbackRequest, pb.RollbackResponse, self._rollback, role="operate"),
                "SelfTest": Method(pb.SelfTestRequest, pb.SelfTestResponse, self._self_test, role="operate"),
                "Remove": Method(pb.RemoveRequest, pb.RemoveResponse, self._remove, role="operate"),
            },
        )

    async def _status(self, request: pb.StatusRequest, call: Call) -> pb.StatusResponse:
        node = self._snapshot()
        identity, health = self._device()
        device = pb.DeviceStatus(
            driver=node.driver,
            identity=identity,
            profile=node.profile,
            simulated=node.simulated,
            tiles=node.tiles,
            tiles_used=node.tiles_used,
            health=health,
            attached=node.device_attached,
            fault=node.device_fault,
        )
        said = {model.name: model for model in node.models}
        return pb.StatusResponse(
            node=node.node,
            agent_version=node.agent_version,
            uptime_s=node.uptime_s,
            device=device,
            models=[_model(model, said[model.name]) for model in self._models.all() if model.name in said],
            maintenance=self._leases.words,
            events=[pb.Event(kind=e.kind, model=e.model, message=e.message, at=e.at) for e in tuple(self._events.last)],
            challenge=await asyncio.to_thread(self._challenge),
        )

    def _challenge(self) -> str:
        """Return what an override must name, "" on a disk that cannot keep it."""
        try:
            return self._operator.controller.challenge()
        except StoreError:
            return ""

    async def _plan(self, request: pb.PlanRequest, call: Call) -> pb.PlanResponse:
        missing = await self._operator.run(
            lambda controller: controller.plan(request.manifest, request.signature, request.override)
        )
        return pb.PlanResponse(missing=sorted(missing), missing_bytes=sum(entry.size for entry in missing.values()))

    async def _upload(self, chunks: AsyncIterator[pb.BlobChunk], call: Call) -> pb.UploadResponse:
        done = pb.UploadResponse()
        receipt: Receipt | None = None
        try:
            async for chunk in chunks:
                if chunk.sha256:
                    await _finish(receipt)
                    receipt = self._operator.controller.uploads.begin(chunk.sha256, chunk.size)
                    done.blobs += 1
                if receipt is None:
                    message = "sha256: expected a digest on the first chunk, got none."
                    raise RequestError(message, remedy="Say what is being sent.")
                await asyncio.to_thread(receipt.write, chunk.data)
                done.bytes += len(chunk.data)
            await _finish(receipt)
        finally:
            if receipt is not None:
                receipt.abandon()
        return done

    async def _install(self, request: pb.InstallRequest, call: Call) -> pb.InstallResponse:
        done = await self._operator.run(
            lambda controller: controller.install(request.manifest, request.signature, request.override)
        )
        loaded = self._models.find(done.model).loaded.get(done.slot)
        return pb.InstallResponse(
            model=done.model,
            slot=done.slot,
            digest=done.digest,
            self_test=_report(done.tested),
            notice=loaded.notice if loaded is not None else "",
        )

    async def _activate(self, request: pb.ActivateRequest, call: Call) -> pb.ActivateResponse:
        slot = await self._operator.run(lambda controller: controller.activate(request.model, request.digest))
        return pb.ActivateResponse(slot=slot)

    async def _rollback(self, request: pb.RollbackRequest, call: Call) -> pb.RollbackResponse:
        slot, version = await self._operator.run(lambda controller: controller.rollback(request.model))
        return pb.RollbackResponse(slot=slot, version=version)

    async def _self_test(self, request: pb.SelfTestRequest, call: Call) -> pb.SelfTestResponse:
        tested = await self._operator.run(lambda controller: controller.self_test(request.model))
        return pb.SelfTestResponse(report=_report(tested))

    async def _remove(self, request: pb.RemoveRequest, call: Call) -> pb.RemoveResponse:
        await self._operator.run(lambda controller: controller.remove(request.model))
        return pb.RemoveResponse()


async def _finish(receipt: Receipt | None) -> None:
    if receipt is not None:
        await asyncio.to_thread(receipt.finish)


def _report(tested: Tested | None) -> pb.SelfTestReport | None:
    if tested is None or math.isnan(tested.at):
        return None
    return pb.SelfTestReport(passed=tested.passed, residual=tested.residual, tolerance=tested.tolerance, at=tested.at)


def _model(model: Model, said: ModelSnapshot) -> pb.ModelStatus:
    slots = [
        pb.SlotStatus(
            slot=letter,
            version=record.version,
            digest=record.digest,
            counter=record.counter,
            signer=record.signer,
            self_test=_report(model.tested.get(record.digest)),
        )
        for letter, record in sorted(model.state.slots.items())
    ]
    left = max(0.0, model.watched_until - time.monotonic()) if said.on_trial else 0.0
    detects = not math.isnan(said.drift_limit)
    return pb.ModelStatus(
        name=model.name,
        slots=slots,
        active=model.state.active,
        ready=said.ready,
        reason=model.reason,
        notice=model.serving.notice if model.serving is not None else "",
        substrate=said.substrate,
        calibration=said.calibration,
        calibration_age_s=0.0 if math.isnan(said.calibration_age_s) else said.calibration_age_s,
        fault=said.fault,
        on_trial=said.on_trial,
        trial_left_s=left,
        drift_score=said.drift_score if detects else None,
        drift_limit=said.drift_limit if detects else None,
        drift_alarms=said.drift_alarms,
        recalibrations=said.recalibrations,
        fallbacks=said.fallbacks,
        rollbacks=said.rollbacks,
    )
