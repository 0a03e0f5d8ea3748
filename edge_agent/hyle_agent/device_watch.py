"""Watches whether the attached device answers; takes the models out of service while it does not, and back after."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from hyle_errors import HyleError

from hyle_agent.control import Controller
from hyle_agent.loading import SlotLoader
from hyle_agent.models import Models
from hyle_agent.operator_thread import OperatorThread

__all__ = ["DeviceWatch"]

_LOG = logging.getLogger(__name__)


class DeviceWatch:
    """Asks an attached device for its health at an interval.

    Args:
        loader: Asks the device.
        operator: Runs the questions between other work.
        models: Whose `attached` it keeps.
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
            with contextlib.suppress(HyleError):
                attached = await self._operator.run(self._look)
                if attached != self._models.attached:
                    self._models.attached = attached
                    _LOG.warning("the device %s", "is back" if attached else "does not answer")
                    await self._changed()

    def _look(self, _: Controller) -> bool:
        """Return whether the device answers; what it holds after an absence is measured before it serves."""
        self._loader.refresh()
        here = bool(self._loader.described.health.get("connected", 1.0))
        if here and not self._models.attached:
            return self._proven()
        return here

    def _proven(self) -> bool:
        for model in self._models.all():
            for loaded in tuple(model.loaded.values()):
                self._loader.recalibrate(loaded)
                if not self._loader.self_test(loaded).passed:
                    return False
        return True
