"""Threads that share one caller's work."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["Crew", "cores"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


class _Shared(Generic[Item, Result]):
    """One call's work, of which any thread takes the next item.

    A call costs a few microseconds: items are taken, counted and waited for by single operations of CPython's own.
    """

    def __init__(self, work: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._work = work
        self._left = deque(enumerate(items))
        self._last = len(items) - 1
        self._ended = itertools.count()
        self._done = threading.Lock()
        self._done.acquire()
        self._failures: list[BaseException] = []
        self._results: list[Any] = [None] * len(items)

    def take(self) -> None:
        """Do what is left, item by item."""
        while True:
            try:
                index, item = self._left.popleft()
            except IndexError:
                return
            try:
                self._results[index] = self._work(item)
            except BaseException as error:
                self._failures.append(error)
                self._drop()
            self._end()

    def results(self) -> list[Result]:
        """Wait for the items that others took; not before `take` has returned."""
        self._done.acquire()
        if self._failures:
            raise self._failures[0]
        return self._results

    def _drop(self) -> None:
        while True:
            try:
                self._left.popleft()
            except IndexError:
                return
            self._end()

    def _end(self) -> None:
        if next(self._ended) == self._last:
            self._done.release()


class Crew:
    """The caller and threads beside it, which are started once there is work for them; for any thread to call.

    Args:
        size: How many work at once, the caller among them; 0 for one a core.
    """

    def __init__(self, size: int) -> None:
        self.size = size or cores()
        self._lock = threading.Lock()
        self._calls: SimpleQueue[_Shared[Any, Any] | None] | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return `work` of each item, in order; any of them may be done first.

        Raises:
            Exception: What `work` raised first; what was begun is ended before, the rest is not begun.
        """
        others = min(self.size, len(items)) - 1
        if others < 1:
            return [work(item) for item in items]
        shared = _Shared(work, items)
        with self._lock:  # whoever closes meanwhile waits, and ends the threads once they have done
            calls = self._calls or self._start()
            for _ in range(others):
                calls.put(shared)
        shared.take()
        return shared.results()

    def close(self) -> None:
        """Let the threads end; a later `map` starts new ones."""
        with self._lock:
            if self._end is not None:
                self._end()
            self._calls = self._end = None

    def _start(self) -> SimpleQueue[_Shared[Any, Any] | None]:
        calls: SimpleQueue[_Shared[Any, Any] | None] = SimpleQueue()
        for number in range(self.size - 1):
            threading.Thread(target=_help, args=(calls,), name=f"portion_{number}", daemon=True).start()
        self._calls, self._end = calls, weakref.finalize(self, _dismiss, calls, self.size - 1)
        return calls


def _help(calls: SimpleQueue[_Shared[Any, Any] | None]) -> None:
    while (shared := calls.get()) is not None:
        shared.take()
        del shared  # what it holds is not to wait for the next call


def _dismiss(calls: SimpleQueue[_Shared[Any, Any] | None], count: int) -> None:
    for _ in range(count):
        calls.put(None)
