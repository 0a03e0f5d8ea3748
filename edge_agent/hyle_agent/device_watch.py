"""Watches whether the attached device answers: without it a fallback stands in or models are not ready; back after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from hyle_errors import HyleError
from hyle_substrates.driver import DeviceError

from hyle_agent.control import Controller
from hyle_agent.loading import SlotLoader
from hyle_agent.models import Models
from hyle_agent.operator_thread import OperatorThread
from hyle_agent.status import refusal_of

__all__ = ["DeviceWatch"]

_LOG = logging.getLogger(__name__)


class DeviceWatch:
    """Asks an attached device for its health at an interval.

    Args:
        loader: Asks the device.
        operator: Runs the questions between other work.
        models: Whose `attached` and `fault` it keeps.
        changed: Called when that changed.
        interval_s: Time between two questions.
    """

    def __init__(
        self,
        loader: SlotLoader,
        operator: OperatorThread,
        models: Models,
        changed: Callable[[], Awaitable[None]],
        interval_s: float = 1.0,
    ) -> None:
        self._loader, self._operator, self._models = loader, operator, models
        self._changed, self._interval_s = changed, interval_s

    async def run(self) -> None:
        """Watch until cancelled; a device without `connected` among its readings, such as a twin, needs none."""
        if "connected" not in self._loader.described.health:
            return
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                changed = await self._operator.run(self._look)
            except HyleError as error:
                _LOG.debug("the device could not be looked at: %s", type(error).__name__)
                continue
            except Exception as error:
                refusal_of(error)  # writes it to the log; a driver that breaks its contract is asked again
                continue
            if changed:
                await self._changed()

    def _look(self, controller: Controller) -> bool:
        """Ask, and act on what changed; whether anything did. What a device holds after an absence is measured anew."""
        fault = self._fault()
        if fault == self._models.fault and self._models.attached == (not fault):
            return False
        if fault:
            self._lost(controller, fault)
            return True
        try:
            controller.welcome()
        except DeviceError as error:
            self._lost(controller, error.fault)
            return True
        self._models.attached, self._models.fault = True, ""
        _LOG.warning("the device is back")
        return True

    def _fault(self) -> str:
        try:
            self._loader.refresh()
        except DeviceError as error:
            return error.fault
        device = self._loader.described
        return "" if device.health.get("connected", 1.0) else device.fault or "unplugged"

    def _lost(self, controller: Controller, fault: str) -> None:
        if self._models.attached or self._models.fault != fault:
            _LOG.warning("the device does not answer: %s", fault)
        self._models.attached, self._models.fault = False, fault
        controller.lose(fault, f"the device does not answer ({fault})")
