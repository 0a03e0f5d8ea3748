"""The one thread that owns the device: everything that touches driver or sessions is work handed to it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, TypeVar

from hyle_substrates.driver import DeviceTimeoutError, Driver

from hyle_agent.errors import ExpiredError, NotReadyError, OverloadError

__all__ = ["DeviceThread"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Work:
    call: Callable[[Driver], Any]
    future: Future[Any]
    deadline: float | None


class DeviceThread:
    """Runs work in order on a thread of its own, where the driver was opened and will be closed.

    Args:
        connect: Opens the driver; called on the thread.
        capacity: Requests that may wait; control work always may.
    """

    def __init__(self, connect: Callable[[], Driver], *, capacity: int) -> None:
        self._connect = connect
        self._capacity = capacity
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._running: _Work | None = None
        self._began = 0.0
        self._stopping = False
        self._owned = threading.Lock()
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="device", daemon=True)

    def start(self) -> None:
        """Open the driver and wait for it.

        Raises:
            HyleError: What the driver said when it was opened.
        """
        self._thread.start()
        self._opened.result()

    @property
    def depth(self) -> int:
        """Work items that wait now."""
        return len(self._waiting)

    def submit(self, call: Callable[[Driver], T], *, deadline: float | None = None, control: bool = False) -> Future[T]:
        """Hand work to the device.

        Args:
            call: The work; gets the driver.
            deadline: `time.monotonic()` after which it must not start any more.
            control: Operator's work, which a full queue does not refuse.

        Returns:
            Its result to come; cancelling it before it starts keeps it from the device.

        Raises:
            OverloadError: The queue is full.
            NotReadyError: The agent is stopping.
        """
        work = _Work(call, Future(), deadline)
        with self._changed:
            self._admit(control)
            self._waiting.append(work)
            self._changed.notify()
        return work.future

    def call(self, work: Callable[[Driver], T], *, timeout_s: float | None = None) -> T:
        """Hand in control work and wait for its result; never from the device thread itself.

        Args:
            work: The work.
            timeout_s: Longest time that the device may take for one piece of work, None for any time. What work before
                this one takes does not count as long as each piece ends within it.

        Raises:
            DeviceTimeoutError: The device hangs. Whoever waits for it is told so; the work may still end one day.
        """
        if timeout_s is not None and self._hangs(timeout_s):
            raise self._hanging()
        future = self.submit(work, control=True)
        while True:
            try:
                return future.result(timeout_s)
            except TimeoutError:
                if future.done() or timeout_s is None:
                    raise
            if self._hangs(timeout_s):
                future.cancel()
                self._abandon_all()
                raise self._hanging()

    def borrow(self, call: Callable[[], None]) -> bool:
        """Run work that does not touch the driver on the calling thread, while the device thread is idle.

        Returns:
            Whether it ran; not while other work waits or runs, so that none of it is overtaken.
        """
        busy = self._waiting or self._running is not None or self._stopping
        if busy or not self._owned.acquire(blocking=False):
            return False
        try:
            call()
        finally:
            self._owned.release()
        return True

    def stop(self, timeout_s: float) -> bool:
        """Finish what waits, close the driver and end; refuse what comes meanwhile.

        Returns:
            Whether all was done within `timeout_s`; what then still waited was refused.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        while self._waiting:
            _abandon(self._waiting.popleft())
        if self._running is not None:
            _abandon(self._running)
        return not self._thread.is_alive()

    def _hangs(self, timeout_s: float) -> bool:
        """Whether the work that runs has run for longer than `timeout_s`."""
        return self._running is not None and time.monotonic() - self._began >= timeout_s

    def _hanging(self) -> DeviceTimeoutError:
        message = f"The device has not answered for {time.monotonic() - self._began:.1f} s."
        return DeviceTimeoutError(message, remedy="Check the device; restart the agent if its driver hangs.")

    def _abandon_all(self) -> None:
        """Tell everybody who waits that the device hangs; what has not begun will not."""
        with self._changed:
            hopeless = [work for work in (self._running, *self._waiting) if work is not None]
            self._waiting.clear()
        for work in hopeless:
            with contextlib.suppress(InvalidStateError):
                work.future.set_exception(self._hanging())

    def _admit(self, control: bool) -> None:
        if self._stopping:
            raise NotReadyError("The agent is stopping.", remedy="Ask another agent, or this one once it is back.")
        if not control and len(self._waiting) >= self._capacity:
            raise OverloadError(f"{self._capacity} requests already wait for the device.", remedy="Try again shortly.")

    def _main(self) -> None:
        try:
            driver = self._connect()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        while (work := self._take()) is not None:
            with self._owned:
                _execute(work, driver)
            self._running = None
        driver.close()

    def _take(self) -> _Work | None:
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait()
            self._running = self._waiting.popleft()
            self._began = time.monotonic()
            return self._running


def _execute(work: _Work, driver: Driver) -> None:
    if not work.future.set_running_or_notify_cancel():
        return
    if work.deadline is not None and time.monotonic() >= work.deadline:
        message = "The deadline passed while the request waited for the device."
        work.future.set_exception(ExpiredError(message, remedy="Allow more time, or send fewer requests at once."))
        return
    try:
        result = work.call(driver)
    except BaseException as error:
        with contextlib.suppress(InvalidStateError):
            work.future.set_exception(error)
    else:
        with contextlib.suppress(InvalidStateError):
            work.future.set_result(result)


def _abandon(work: _Work) -> None:
    """Let nobody wait for work of a device that hangs, or that never began."""
    with contextlib.suppress(InvalidStateError):
        work.future.set_exception(NotReadyError("The agent stopped.", remedy="Ask it again once it is back."))
