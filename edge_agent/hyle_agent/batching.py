"""Drain and batch: requests gathered while the device is busy are its next batch; none waits for company."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from hyle_errors import CallerError
from hyle_substrates.driver import DeviceError, Driver

from hyle_agent.answers import Answers
from hyle_agent.device_thread import DeviceThread
from hyle_agent.errors import ExpiredError, NotReadyError, OverloadError
from hyle_agent.inference import Job, answers_of, arrays_of
from hyle_agent.loading import run_batch

__all__ = ["Gatherer", "Waiting"]

# Failures that say nothing of the program that was asked: the caller's, the device's, the load's.
_BLAMELESS = (CallerError, DeviceError, ExpiredError, NotReadyError, OverloadError)
Done = Callable[["Waiting", Answers | None, int, BaseException | None], None]


@dataclass(slots=True, eq=False)
class Waiting:
    """A valid request on its way to the device.

    Attributes:
        job: What is to be run.
        deadline: `time.monotonic()` after which nobody waits for it.
        done: Told its batch's answers and which sample of the batch is its first, or why there is no answer; once, on
            any thread.
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

    Attributes:
        crowded: Whether the program of the last batch takes every core there is.
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
        self.crowded = False

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
        while self._waiting and (batch := self._take()) is not None:
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
        """Take the next batch if the device has none: neighbours that one execution can answer.

        `cancel` may take any of those that wait away at any moment.
        """
        waiting = self._waiting
        with self._lock:
            if self._busy:
                return None
            batch: list[Waiting] = []
            samples = 0
            while waiting:
                try:
                    one = waiting.popleft()
                except IndexError:
                    break
                job = one.job
                if batch and (samples + job.samples > self._largest or not batch[0].job.joins(job)):
                    waiting.appendleft(one)
                    break
                if one.deadline is None or not _expired(one.deadline, one):
                    batch.append(one)
                    samples += job.samples
            self._busy = bool(batch)
        return batch or None

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
        jobs = [one.job for one in batch]
        samples = sum([job.samples for job in jobs])
        self.crowded = jobs[0].loaded.program.crowded
        began = time.perf_counter()
        try:
            outputs, energy_j = run_batch(jobs[0].loaded, arrays_of(jobs), samples)
            answers = answers_of(jobs, outputs, samples)
        except BaseException as error:
            if len(batch) == 1:
                _refuse(batch, error)
                return
            for one in batch:  # one bad request of a batch fails alone
                self._run([one])
            return
        ended = time.perf_counter()
        starts = accumulate([job.samples for job in jobs], initial=0)
        answered = [pair for pair in zip(batch, starts, strict=False) if not pair[0].settled]
        if not answered:
            return
        if len(answered) < len(batch):  # a device that hung: the others were told so meanwhile
            left = sum([one.job.samples for one, _ in answered])
            energy_j, samples = energy_j * left / samples, left
        arrived = [one.arrived for one, _ in answered]
        jobs[0].model.statistics.answered(arrived, began, ended, samples=samples, energy_j=energy_j)
        for one, start in answered:
            one.settled = True
            one.done(one, answers, start, None)

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
        one.done(one, None, 0, error)
