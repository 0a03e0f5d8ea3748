"""Checks of a black box driver."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from hyle_substrates.conformance import Rig, Skipped, Subject, demand, refused
from hyle_substrates.driver import BlackBox, BlackBoxInfo, Floats

__all__ = ["CHECKS"]

SAMPLES = 12


@contextmanager
def _opened(subject: Subject[BlackBox]) -> Iterator[tuple[BlackBox, BlackBoxInfo]]:
    box = subject.connect()
    try:
        yield box, box.describe()
    finally:
        box.close()


def _values(info: BlackBoxInfo, batch: int = SAMPLES) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(3)
    parameters, inputs = (rng.uniform(info.low, info.high, (batch, n)) for n in (info.parameters, info.inputs))
    return parameters, inputs


def describes_itself(subject: Subject[BlackBox]) -> None:
    """Identity, sizes, range and health are there and finite."""
    with _opened(subject) as (_, info):
        demand(info.identity and info.inputs >= 1 and info.outputs >= 1, f"It describes itself as {info}.")
        demand(info.low < info.high, "Its range is empty.")
        demand(all(math.isfinite(value) for value in info.health.values()), "A reading is not finite.")


def answers_every_sample(subject: Subject[BlackBox]) -> None:
    """Readings are finite, one row for each sample, and follow the inputs."""
    with _opened(subject) as (box, info):
        answer = box.respond(*_values(info))
        demand(answer.shape == (SAMPLES, info.outputs), f"The answer's shape is {answer.shape}.")
        demand(np.isfinite(answer).all(), "A reading is not finite.")
        demand(answer.std(axis=0).max() > 0.0, "The readings do not follow the inputs.")


def treats_samples_alone(subject: Subject[BlackBox]) -> None:
    """In another order the same samples answer alike: what one leaves behind is below a tenth of the signal."""
    with _opened(subject) as (box, info):
        parameters, inputs = _values(info)
        first = box.respond(parameters, inputs)
        order = np.random.default_rng(4).permutation(SAMPLES)
        second = box.respond(parameters[order], inputs[order])
        spread = float(np.sqrt(np.mean((second - first[order]) ** 2)))
        signal = float(np.sqrt(np.mean((first - first.mean(axis=0)) ** 2)))
        demand(spread <= 0.1 * signal, f"Order changes the readings by {spread / signal:.0%} of the signal.")


def refuses_what_is_wrong(subject: Subject[BlackBox]) -> None:
    """NaN, values out of range and wrong shapes."""
    with _opened(subject) as (box, info):
        parameters, inputs = _values(info, 2)
        refused(lambda: box.respond(parameters, np.full_like(inputs, np.nan)), "An input that is NaN")
        refused(lambda: box.respond(parameters, np.full_like(inputs, info.high * 2 + 1)), "An input out of range")
        refused(lambda: box.respond(parameters, inputs[:, :-1]), "An input too few")
        refused(lambda: box.respond(parameters[:1], inputs), "A batch of two lengths")


def refuses_a_second_owner(subject: Subject[BlackBox]) -> None:
    """While one program owns the device, another is refused."""
    with _opened(subject) as (_, info):
        if info.simulated:
            raise Skipped("a simulated device is one of its own")
        refused(subject.connect, "A second owner")


def says_so_when_it_is_unplugged(subject: Subject[BlackBox]) -> None:
    """Unplugged, calls fail and health says so; plugged in again, it answers."""
    rig = _rig(subject)
    _absence(subject, rig.unplug, rig.replug)


def gives_up_on_a_device_that_hangs(subject: Subject[BlackBox]) -> None:
    """Frozen, a call fails within the timeout; thawed, the driver serves again by itself."""
    rig = _rig(subject)
    _absence(subject, rig.freeze, rig.thaw)


def ends_when_it_is_closed(subject: Subject[BlackBox]) -> None:
    """After `close`, calls fail, and the device can be opened again."""
    with _opened(subject) as (box, info):
        box.close()
        refused(lambda: box.respond(*_values(info)), "A call after close")
    with _opened(subject):
        pass


def _rig(subject: Subject[BlackBox]) -> Rig:
    if subject.rig is None:
        raise Skipped("nothing here can take the device away; give --unplug and --replug")
    return subject.rig


def _absence(subject: Subject[BlackBox], leave: Callable[[], None], back: Callable[[], None]) -> None:
    with _opened(subject) as (box, info):
        values = _values(info)
        before = box.respond(*values)
        leave()
        try:
            started = time.monotonic()
            refused(lambda: box.respond(*values), "A call to a device that is away")
            demand(time.monotonic() - started < subject.timeout_s, "The call did not give up in time.")
            demand(box.describe().health.get("connected") == 0.0, "Health does not say that the device is away.")
        finally:
            back()
        until = time.monotonic() + subject.timeout_s
        while box.describe().health.get("connected") != 1.0:
            demand(time.monotonic() < until, "The driver did not find the device again.")
            time.sleep(0.05)
        # A command that was given up may take effect late, amid the first answer; not in one more.
        alike = max(_likeness(before, box.respond(*values)) for _ in range(2))
        demand(alike > 0.9, f"The device came back changed: correlation {alike:.2f}.")


def _likeness(one: Floats, other: Floats) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


CHECKS = (
    describes_itself,
    answers_every_sample,
    treats_samples_alone,
    refuses_what_is_wrong,
    refuses_a_second_owner,
    gives_up_on_a_device_that_hangs,
    says_so_when_it_is_unplugged,
    ends_when_it_is_closed,
)
