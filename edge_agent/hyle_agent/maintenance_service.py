"""The maintenance and the substrate service of an agent: thin; what leases mean is in `leases` and `tenancy`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import numpy as np
from hyle_protos.maintenance import maintenance_pb2 as pb
from hyle_protos.substrate import substrate_pb2 as spb
from hyle_substrates.driver import Codes, Device, DeviceError, Driver
from hyle_substrates.wire import pack, pack_profile, unpack

from hyle_agent.device_thread import DeviceThread
from hyle_agent.engine import Call, Method, Service
from hyle_agent.errors import LeaseOverError, RequestError
from hyle_agent.lease import Lease
from hyle_agent.leases import Leases

__all__ = ["MAINTENANCE", "SUBSTRATE", "MaintenanceService"]

MAINTENANCE = "hyle.maintenance.v1.Maintenance"
SUBSTRATE = "hyle.substrate.v1.Substrate"

T = TypeVar("T")


class MaintenanceService:
    """Lends the device, and drives it for who has it.

    Args:
        leases: Who has it.
        device: Owner of the driver.
    """

    def __init__(self, leases: Leases, device: DeviceThread) -> None:
        self._leases = leases
        self._device = device
        self._described: Device | None = None

    def services(self) -> tuple[Service, Service]:
        """Return the two tables of methods; every one of them takes an operator."""
        maintenance = {
            "Open": Method(pb.OpenRequest, pb.Lease, self._open, role="operate"),
            "Renew": Method(pb.RenewRequest, pb.Lease, self._renew, role="operate"),
            "Close": Method(pb.CloseRequest, pb.Restored, self._close, role="operate"),
            "Show": Method(pb.ShowRequest, pb.Holding, self._show, role="operate"),
        }
        substrate = {
            "Describe": Method(spb.DescribeRequest, spb.Description, self._describe, role="operate"),
            "Program": Method(spb.ProgramRequest, spb.ProgramReport, self._program, role="operate"),
            "Apply": Method(spb.ApplyRequest, spb.ApplyResponse, self._apply, True, True, role="operate"),
            "Health": Method(spb.HealthRequest, spb.HealthResponse, self._health, role="operate"),
        }
        return Service(MAINTENANCE, maintenance), Service(SUBSTRATE, substrate)

    async def _open(self, request: pb.OpenRequest, call: Call) -> pb.Lease:
        return self._told(await self._leases.open(request.holder, request.purpose, request.tiles))

    async def _renew(self, request: pb.RenewRequest, call: Call) -> pb.Lease:
        return self._told(self._leases.renew(request.token))

    async def _close(self, request: pb.CloseRequest, call: Call) -> pb.Restored:
        restored = await self._leases.close(request.token)
        models = [
            pb.RestoredModel(
                name=one.name, serves=one.serves, residual=one.residual, tolerance=one.tolerance, reason=one.reason
            )
            for one in restored
        ]
        return pb.Restored(models=models)

    async def _show(self, request: pb.ShowRequest, call: Call) -> pb.Holding:
        lease = self._leases.current
        if lease is None or lease.span is None:
            return pb.Holding()
        return pb.Holding(
            held=True,
            holder=lease.holder,
            purpose=lease.purpose,
            expires_in_s=max(0.0, lease.expires - time.monotonic()),
            first_tile=lease.span.start,
            tiles=lease.span.count,
        )

    async def _describe(self, request: spb.DescribeRequest, call: Call) -> spb.Description:
        found = await self._look()
        lease = self._leases.current
        tiles = lease.span.count if lease is not None and lease.span is not None else found.tiles
        return spb.Description(
            identity=found.identity, profile=pack_profile(found.profile), tiles=tiles, simulated=found.simulated
        )

    async def _health(self, request: spb.HealthRequest, call: Call) -> spb.HealthResponse:
        return spb.HealthResponse(readings=dict((await self._look()).health))

    async def _program(self, request: spb.ProgramRequest, call: Call) -> spb.ProgramReport:
        lease = self._leases.find(request.owner)
        device = self._described or await self._look()
        targets = _matrix(request.targets)
        _check_tiles(lease, [request.tile])
        array, levels = device.profile.array, device.profile.weights.levels
        if targets.shape[0] > array.rows or targets.shape[1] > array.cols:
            raise RequestError(
                f"targets: expected at most {array.rows} x {array.cols}, got {targets.shape}.",
                remedy="Split the layer.",
            )
        _check_codes(targets, levels, "targets")
        report = await self._run(lambda driver: lease.program(driver, request.tile, targets, request.write))
        return spb.ProgramReport(residual=report.residual, seconds=report.seconds)

    async def _apply(self, requests: AsyncIterator[spb.ApplyRequest], call: Call) -> AsyncIterator[spb.ApplyResponse]:
        first = await anext(requests, None)
        if first is None:
            return
        lease = self._leases.find(first.owner)
        device = self._described or await self._look()
        self._leases.attach(lease)
        over = asyncio.ensure_future(lease.over.wait())
        try:
            yield spb.ApplyResponse()
            while (request := await _next(requests, lease, over)) is not None:
                tiles, codes = list(request.tiles), _matrix(request.codes)
                _check_tiles(lease, tiles)
                _check_codes(codes, device.profile.dac.levels, "codes")
                answers = await self._run(lambda driver, t=tiles, c=codes: lease.apply(driver, t, c))  # type: ignore[misc]
                yield spb.ApplyResponse(codes=pack(answers))
        finally:
            over.cancel()
            self._leases.detach(lease)

    async def _look(self) -> Device:
        self._described = found = await self._run(lambda driver: driver.describe())
        return found

    async def _run(self, work: Callable[[Driver], T]) -> T:
        return await asyncio.wrap_future(self._device.submit(work, control=True))

    def _told(self, lease: Lease) -> pb.Lease:
        assert lease.span is not None
        config = self._leases.config
        return pb.Lease(
            token=lease.token,
            expires_in_s=max(0.0, lease.expires - time.monotonic()),
            renew_every_s=config.expire_s / 3.0,
            grace_s=config.grace_s,
            first_tile=lease.span.start,
            tiles=lease.span.count,
            serving=lease.serving,
        )


async def _next(
    requests: AsyncIterator[spb.ApplyRequest], lease: Lease, over: asyncio.Future[Any]
) -> spb.ApplyRequest | None:
    """The next request, or LeaseOverError once the lease is over."""
    coming: asyncio.Future[spb.ApplyRequest | None] = asyncio.ensure_future(anext(requests, None))
    try:
        await asyncio.wait((coming, over), return_when=asyncio.FIRST_COMPLETED)
        lease.check()
        return coming.result()
    finally:
        if not coming.done():
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await coming


def _matrix(matrix: spb.Matrix) -> Codes:
    try:
        return unpack(matrix)
    except DeviceError as error:
        raise RequestError(error.message, remedy=error.remedy) from error


def _check_tiles(lease: Lease, tiles: list[int]) -> None:
    if lease.span is None:
        raise LeaseOverError("The lease is over.", remedy="Open another one.")
    wrong = [tile for tile in tiles if tile >= lease.span.count]
    if wrong or not tiles:
        raise RequestError(
            f"tiles: expected some from 0 to {lease.span.count - 1}, got {wrong or 'none'}.",
            remedy="Use the tiles of the lease, which begin at 0.",
        )


def _check_codes(codes: Codes, levels: int, what: str) -> None:
    if codes.size and not np.isfinite(codes).all():
        raise RequestError(f"{what}: expected finite numbers, got others.", remedy="Give finite numbers.")
    if levels and codes.size and max(int(codes.max()), -int(codes.min())) > levels:
        raise RequestError(
            f"{what}: expected -{levels} to {levels}, got more.", remedy="Encode with this device's profile."
        )
