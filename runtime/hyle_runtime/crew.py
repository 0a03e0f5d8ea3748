"""Threads that share one caller's work."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Crew", "cores"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


class Crew:
    """The caller and threads beside it, which are started once there is work for them; for any thread to call.

    Args:
        size: How many work at once, the caller among them; 0 for one a core.
    """

    def __init__(self, size: int) -> None:
        self.size = size or cores()
        self._others: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return `work` of each item, in order; any of them may be done first.

        Raises:
            Exception: What `work` raised first; what was begun is ended before, the rest is not begun.
        """
        others = min(self.size, len(items)) - 1
        if others < 1:
            return [work(item) for item in items]
        left = deque(enumerate(items))
        results: list[Result | None] = [None] * len(items)

        def take() -> None:
            while True:
                try:
                    index, item = left.popleft()
                except IndexError:
                    return
                try:
                    results[index] = work(item)
                except BaseException:
                    left.clear()
                    raise

        with self._lock:  # whoever closes meanwhile waits, and ends the threads once they have done
            if self._others is None:
                self._others = ThreadPoolExecutor(self.size - 1, thread_name_prefix="portion")
            helpers: list[Future[None]] = [self._others.submit(take) for _ in range(others)]
        try:
            take()
        finally:
            failures = [helper.exception() for helper in helpers]
        for failure in failures:
            if failure is not None:
                raise failure
        return results  # type: ignore[return-value]

    def close(self) -> None:
        """Let the threads end; a later `map` starts new ones."""
        with self._lock:
            if self._others is not None:
                self._others.shutdown(wait=False)
            self._others = None
