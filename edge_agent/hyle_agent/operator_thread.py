"""Operator's work off the serving thread: one at a time, in order, while requests are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hyle_agent.control import Controller
from hyle_agent.errors import NotReadyError

__all__ = ["OperatorThread"]

T = TypeVar("T")


class OperatorThread:
    """Runs what changes models on one thread of its own.

    Args:
        controller: What it is done with.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="operator")

    async def run(self, work: Callable[[Controller], T]) -> T:
        """Run one piece of work after those before it.

        Raises:
            NotReadyError: The agent is stopping.
            HyleError: What the work raised.
        """
        try:
            future = self._thread.submit(work, self.controller)
        except RuntimeError as error:
            raise NotReadyError("The agent is stopping.", remedy="Ask it again once it is back.") from error
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """Take no more work and drop what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)
