"""The one thread that owns the device: order, bounds, cancellation, deadlines, drain."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from agent_fakes import TWIN, connect_twin
from hyle_agent.device_thread import DeviceThread
from hyle_agent.errors import ExpiredError, NotReadyError, OverloadError


@pytest.fixture
def device() -> Iterator[DeviceThread]:
    made = DeviceThread(lambda: connect_twin(TWIN), capacity=2)
    made.start()
    yield made
    made.stop(5)


class Held:
    """Keeps the device busy until it is let go."""

    def __init__(self, device: DeviceThread) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.future = device.submit(self._work)
        assert self.entered.wait(5)

    def _work(self, _: object) -> None:
        self.entered.set()
        self.release.wait(5)


def test_all_work_and_the_driver_live_on_one_thread() -> None:
    threads = []

    def connect() -> object:
        threads.append(threading.current_thread())
        return connect_twin(TWIN)

    device = DeviceThread(connect, capacity=8)
    device.start()
    futures = [device.submit(lambda _: threads.append(threading.current_thread())) for _ in range(5)]
    [future.result(5) for future in futures]
    device.stop(5)
    assert len(threads) == 6
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


def test_a_driver_that_does_not_open_says_why() -> None:
    device = DeviceThread(lambda: connect_twin({"profile": "no-such"}), capacity=1)
    with pytest.raises(Exception, match="no-such"):
        device.start()


def test_a_full_queue_refuses_requests_and_takes_operators_work(device: DeviceThread) -> None:
    held = Held(device)
    waiting = [device.submit(lambda _: 1) for _ in range(2)]
    assert device.depth == 2
    with pytest.raises(OverloadError, match="2 requests already wait"):
        device.submit(lambda _: 1)
    control = device.submit(lambda _: 2, control=True)
    held.release.set()
    assert [future.result(5) for future in (*waiting, control)] == [1, 1, 2]


def test_cancelled_work_never_reaches_the_device(device: DeviceThread) -> None:
    held, reached = Held(device), []
    future = device.submit(reached.append)
    assert future.cancel()
    held.release.set()
    device.call(lambda _: None)
    assert reached == []
    with pytest.raises(CancelledError):
        future.result()


def test_expired_work_never_reaches_the_device(device: DeviceThread) -> None:
    held, reached = Held(device), []
    late = device.submit(reached.append, deadline=time.monotonic())
    in_time = device.submit(lambda _: "done", deadline=time.monotonic() + 60)
    held.release.set()
    with pytest.raises(ExpiredError):
        late.result(5)
    assert in_time.result(5) == "done"
    assert reached == []


def test_what_work_raises_goes_to_who_asked_and_the_thread_lives_on(device: DeviceThread) -> None:
    with pytest.raises(ZeroDivisionError):
        device.call(lambda _: 1 / 0)
    assert device.call(lambda _: "alive") == "alive"


def test_a_stop_finishes_what_waits_closes_the_driver_and_refuses_more() -> None:
    driver = connect_twin(TWIN)
    device = DeviceThread(lambda: driver, capacity=8)
    device.start()
    futures = [device.submit(lambda _, i=i: i) for i in range(5)]
    assert device.stop(5)
    assert [future.result(0) for future in futures] == list(range(5))
    assert driver._closed
    with pytest.raises(NotReadyError):
        device.submit(lambda _: 1)


def test_a_stop_does_not_wait_for_ever() -> None:
    device = DeviceThread(lambda: connect_twin(TWIN), capacity=8)
    device.start()
    held = Held(device)
    waiting = device.submit(lambda _: 1)
    assert not device.stop(0.05)
    for future in (waiting, held.future):
        with pytest.raises(NotReadyError, match="stopped"):
            future.result(0)
    held.release.set()
    device._thread.join(5)
    assert not device._thread.is_alive()
