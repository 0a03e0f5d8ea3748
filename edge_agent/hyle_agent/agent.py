"""The agent: its parts, put together, started in order and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from hyle_errors import HyleError
from hyle_substrates.driver import Driver

from hyle_agent.certificate_watch import CertificateWatch, Validity
from hyle_agent.choice import find_engine
from hyle_agent.config import Config, check
from hyle_agent.control import Controller
from hyle_agent.control_service import SERVICE as CONTROL_SERVICE
from hyle_agent.control_service import ControlService
from hyle_agent.device_thread import DeviceThread
from hyle_agent.device_watch import DeviceWatch
from hyle_agent.engine import Engine
from hyle_agent.events import Event, Events
from hyle_agent.health import Health, reflection_service
from hyle_agent.inference_service import SERVICE as INFERENCE_SERVICE
from hyle_agent.inference_service import InferenceService
from hyle_agent.leases import Leases
from hyle_agent.loading import SlotLoader
from hyle_agent.maintenance_service import MAINTENANCE, SUBSTRATE, MaintenanceService
from hyle_agent.memory import give_back
from hyle_agent.models import Models, snapshot_model
from hyle_agent.operator_thread import OperatorThread
from hyle_agent.program import Load
from hyle_agent.rounds import Rounds
from hyle_agent.snapshot import NodeSnapshot
from hyle_agent.store import Store
from hyle_agent.tenancy import Tenancy
from hyle_agent.trust import Trust, read_keys
from hyle_agent.version import agent_version

__all__ = ["Agent"]

_LOG = logging.getLogger(__name__)
_LAST_WORD_S = 1.0


class Reporter(Protocol):
    """What runs telemetry."""

    def notify(self) -> None:
        """Say that the state changed."""
        ...

    def tell(self, event: Event) -> None:
        """Say that something happened that must not be lost."""
        ...

    def stop(self) -> None:
        """Say goodbye and end."""
        ...


class Agent:
    """One edge agent.

    Args:
        config: What the operator decided.
        load: Makes programs; the executor's `load`.
        connect: Opens the driver from its options.

    Raises:
        HyleError: The configuration is unsafe, the store is owned, a key or the device cannot be opened.
    """

    def __init__(self, config: Config, *, load: Load, connect: Callable[[Mapping[str, str]], Driver]) -> None:
        check(config)
        validity: Validity | None = None
        if config.tls is not None:
            from hyle_agent.tls_files import check_tls

            validity = check_tls(config.tls)
        self._config = config
        operators = read_keys(config.operators, "operators")
        self._trust = Trust(read_keys(config.trusted), config.insecure, operators)
        self._store = Store(Path(config.store))
        self._models = Models()
        self._device = DeviceThread(lambda: connect(config.driver.words()), capacity=config.queue)
        try:
            self._device.start()
        except BaseException:
            self._store.close()
            raise
        policy = config.policy
        self._events = Events(self._report)
        self._certificates = CertificateWatch(validity, self._events) if validity is not None else None
        self._loader = SlotLoader(
            self._device, load, self._trust, threads=config.threads, timeout_s=policy.device_timeout_s
        )
        self._operator = OperatorThread(
            Controller(self._store, self._loader, self._models, self._changed, policy, self._events)
        )
        self._rounds = Rounds(self._operator, self._models, policy)
        tenancy = Tenancy(config.maintenance, self._store, self._loader, self._models, self._changed)
        self._leases = Leases(config.maintenance, tenancy, self._operator, self._models)
        self._health = Health(self._models, (INFERENCE_SERVICE, CONTROL_SERVICE))
        self._engine: Engine = self._make_engine()
        self._started_s = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._reporter: Reporter | None = None

    async def start(self) -> str:
        """Serve, load what is active, start telemetry.

        Returns:
            The address as `HOST:PORT`, once every active model was loaded or given up.
        """
        self._loop = asyncio.get_running_loop()
        await self._health.update()
        port = await self._engine.start()
        await self._operator.run(lambda controller: controller.boot())
        self._models.booted = True
        await self._health.update()
        self._reporter = self._start_telemetry()
        for event in tuple(self._events.last):
            self._report(event)
        self._tasks.append(asyncio.create_task(self._operator.run(lambda _: give_back())))
        watch = DeviceWatch(self._loader, self._operator, self._models, self._health.update)
        self._tasks.append(asyncio.create_task(watch.run()))
        self._tasks.append(asyncio.create_task(self._leases.run()))
        self._tasks.append(asyncio.create_task(self._rounds.run()))
        if self._certificates is not None:
            self._tasks.append(asyncio.create_task(self._certificates.run()))
        return self._config.address.at(port)

    async def stop(self) -> None:
        """Refuse new requests, finish those in progress, close device and store; bounded by twice `drain_s`.

        The device is closed before the operator's thread is asked for the last time, as that may wait for the device.
        """
        drain_s, until = self._config.drain_s, time.monotonic() + 2 * self._config.drain_s
        self._loader.given_up = not self._models.booted
        self._models.stopping = self._loader.stopping = True
        await self._health.update()
        self._leases.stop()
        for task in self._tasks:
            task.cancel()
        await self._engine.stop(drain_s)
        if not await asyncio.to_thread(self._device.stop, drain_s):
            _LOG.warning("the device did not finish its work in %.1f s and was abandoned", drain_s)
        with contextlib.suppress(HyleError, TimeoutError):
            left = max(_LAST_WORD_S, until - time.monotonic())
            await asyncio.wait_for(self._operator.run(lambda controller: controller.stop()), left)
        self._operator.stop()
        if self._reporter is not None:
            await asyncio.to_thread(self._reporter.stop)
        self._store.close()

    def snapshot(self) -> NodeSnapshot:
        """Return what the agent says of itself now: scalars only."""
        device = self._loader.described
        return NodeSnapshot(
            node=self._config.node,
            agent_version=agent_version(),
            uptime_s=time.monotonic() - self._started_s,
            rss_bytes=_resident_bytes(),
            driver=self._config.driver.name,
            profile=device.profile.name,
            simulated=device.simulated,
            tiles_used=self._loader.tiles.used,
            tiles=device.tiles,
            models=tuple(
                snapshot_model(model, self._events, answers=self._models.answers(model)) for model in self._models.all()
            ),
            device_attached=self._models.attached,
            device_fault=self._models.fault,
        )

    def _make_engine(self) -> Engine:
        config = self._config
        inference = InferenceService(
            self._models, self._device, self._operator, capacity=config.queue, largest=config.max_batch
        )
        control = ControlService(
            self._operator, self._models, self.snapshot, self._readings, self._leases, self._events
        )
        maintenance = MaintenanceService(self._leases, self._device)
        names = (INFERENCE_SERVICE, CONTROL_SERVICE, MAINTENANCE, SUBSTRATE)
        health = (self._health.service(), reflection_service(names))
        services = (inference.service(), control.service(), *maintenance.services(), *health)
        make = find_engine(config.engine)
        return make(services, config.address, tls=config.tls, max_message_bytes=config.max_message_mb << 20)

    def _readings(self) -> tuple[str, dict[str, float]]:
        device = self._loader.described
        return device.identity, dict(device.health)

    def _changed(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._health.update(), self._loop)
            self._loop.call_soon_threadsafe(self._rounds.wake)
        if self._reporter is not None:
            self._reporter.notify()

    def _start_telemetry(self) -> Reporter | None:
        settings = self._config.telemetry_config()
        if settings is None:
            return None
        from hyle_agent import telemetry

        return telemetry.start(settings, self.snapshot)

    def _report(self, event: Event) -> None:
        if self._reporter is not None:
            self._reporter.tell(event)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
