"""Drain and batch: requests gathered while the device is busy are its next batch; none waits for company."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyle_errors import CallerError
from hyle_substrates.driver import DeviceError, Driver

from hyle_agent.device_thread import DeviceThread
from hyle_agent.errors import ExpiredError, NotReadyError, OverloadError
from hyle_agent.inference import Job, arrays_of
from hyle_agent.loading import run_batch
from hyle_agent.program import Array

__all__ = ["Gatherer", "Waiting"]

Outputs = dict[str, Array]
# Failures that say nothing of the program that was asked: the caller's, the device's, the load's.
_BLAMELESS = (CallerError, DeviceError, ExpiredError, NotReadyError, OverloadError)
Done = Callable[["Waiting", Outputs | None, BaseException | None], None]


@dataclass(slots=True, eq=False)
class Waiting:
    """A valid request on its way to the device.

    Attributes:
        job: What is to be run.
        deadline: `time.monotonic()` after which nobody waits for it.
        done: Told its outputs, or why there are none, once; on any thread.
        answer: What `done` needs to answer the caller.
        settled: Whether `done` was called; a device that hung may answer late.
    """

    job: Job
    deadline: float | None
    done: Done
    answer: Any
    arrived: float = field(default_factory=time.perf_counter)
    settled: bool = False


class Gatherer:
    """Keeps what waits for the device, and hands it over in batches, in the order of arrival.

    Args:
        device: Owner of the device.
        capacity: Requests that may wait; more are refused.
        largest: Samples in one batch of several requests; 1 for a device that takes one after another.
        renew: Finds who answers a request whose program was taken out of service while it waited.
    """

    def __init__(
        self, device: DeviceThread, *, capacity: int, largest: int, renew: Callable[[Job], Job] = lambda job: job
    ) -> None:
        self._device = device
        self._capacity = capacity
        self._largest = largest
        self._renew = renew
        self._waiting: deque[Waiting] = deque()
        self._lock = threading.Lock()
        self._busy = False

    @property
    def full(self) -> bool:
        """Whether a whole batch waits."""
        return len(self._waiting) >= self._largest

    @property
    def waits(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """Let a request wait for the next `flush`.

        Raises:
            OverloadError: Too many wait already.
        """
        if len(self._waiting) >= self._capacity:
            raise OverloadError(f"{self._capacity} requests already wait for the device.", remedy="Try again shortly.")
        waiting.job.model.statistics.entered()
        self._waiting.append(waiting)

    def cancel(self, waiting: Waiting) -> None:
        """Keep a request whose caller is gone from the device, if it did not get there yet."""
        try:
            self._waiting.remove(waiting)
        except ValueError:
            return
        waiting.job.model.statistics.failed(time.perf_counter() - waiting.arrived, waited=True)

    def flush(self, *, inline: bool = False) -> None:
        """Hand what waits to the device, unless it still has a batch; its end flushes again.

        What needs no device never waits for it: a device that hangs does not keep a fallback from answering.

        Args:
            inline: Run on the calling thread what any thread may run, while the device thread is idle.
        """
        while (batch := self._take()) is not None:
            if batch[0].job.loaded.aside:
                self._run(batch)
                self._busy = False
                continue
            if inline and batch[0].job.loaded.program.shared and self._device.borrow(lambda: self._run(batch)):
                self._busy = False
                continue
            if self._submit(batch):
                return

    def _take(self) -> list[Waiting] | None:
        """Take the next batch if the device has none: neighbours that one execution can answer."""
        with self._lock:
            if self._busy:
                return None
            batch: list[Waiting] = []
            samples = 0
            while (first := self._pop(batch, samples)) is not None:
                if first.deadline is None or not _expired(first.deadline, first):
                    batch.append(first)
                    samples += first.job.samples
            self._busy = bool(batch)
        return batch or None

    def _pop(self, batch: list[Waiting], samples: int) -> Waiting | None:
        """Take the first that waits, unless it cannot join the batch; `cancel` may take it away at any moment."""
        try:
            first = self._waiting.popleft()
        except IndexError:
            return None
        if batch and (samples + first.job.samples > self._largest or not batch[0].job.joins(first.job)):
            self._waiting.appendleft(first)
            return None
        return first

    def _submit(self, batch: list[Waiting]) -> bool:
        def work(_: Driver) -> None:
            self._run(batch)

        try:
            future = self._device.submit(work, control=True)
        except BaseException as error:
            self._busy = False
            _refuse(batch, error)
            return False
        future.add_done_callback(lambda done: self._finished(batch, done.exception()))
        return True

    def _finished(self, batch: list[Waiting], error: BaseException | None) -> None:
        self._busy = False
        if error is not None:
            _refuse(batch, error)
        self.flush()

    def _run(self, batch: Sequence[Waiting]) -> None:
        """Answer a batch, on the device thread or in its place."""
        if batch[0].job.loaded.closed:
            self._run_renewed(batch)
            return
        began = time.perf_counter()
        try:
            outputs, energy_j = _execute(batch)
        except BaseException as error:
            if len(batch) == 1:
                _refuse(batch, error)
                return
            for one in batch:  # one bad request of a batch fails alone
                self._run([one])
            return
        answered = [pair for pair in zip(batch, outputs, strict=True) if not pair[0].settled]
        if not answered:
            return
        samples = sum([one.job.samples for one, _ in answered])
        arrived = [one.arrived for one, _ in answered]
        batch[0].job.model.statistics.answered(
            arrived, began, time.perf_counter(), samples=samples, energy_j=energy_j * samples
        )
        for one, own in answered:
            one.settled = True
            one.done(one, own, None)

    def _run_renewed(self, batch: Sequence[Waiting]) -> None:
        for one in batch:
            try:
                one.job = self._renew(one.job)
                if one.job.loaded.closed:
                    remedy = "Ask again, or see `hyle status`."
                    raise NotReadyError("The model was taken out of service.", remedy=remedy)
            except BaseException as error:
                _refuse([one], error)
                continue
            self._run([one])


def _execute(batch: Sequence[Waiting]) -> tuple[list[Outputs], float]:
    """Run one batch; returns each request's own outputs, and the energy of one sample in joules."""
    first = batch[0].job
    if len(batch) == 1:
        outputs, energy_j = run_batch(first.loaded, arrays_of([first]), first.samples)
        return [outputs], energy_j / first.samples
    jobs = [one.job for one in batch]
    samples = sum([job.samples for job in jobs])
    outputs, energy_j = run_batch(first.loaded, arrays_of(jobs), samples)
    shares: list[Outputs] = [{} for _ in jobs]
    for name, values in outputs.items():
        start = 0
        for job, share in zip(jobs, shares, strict=True):
            share[name] = values[start : start + job.samples]
            start += job.samples
    return shares, energy_j / samples


def _expired(deadline: float, waiting: Waiting) -> bool:
    if time.monotonic() < deadline:
        return False
    message = "The deadline passed while the request waited for the device."
    _refuse([waiting], ExpiredError(message, remedy="Allow more time, or send fewer requests at once."))
    return True


def _refuse(batch: Sequence[Waiting], error: BaseException) -> None:
    broken = not isinstance(error, _BLAMELESS)
    for one in batch:
        if one.settled:
            continue
        one.settled = True
        statistics = one.job.model.statistics
        statistics.failed(time.perf_counter() - one.arrived, waited=True, broken=broken)
        one.done(one, None, error)
