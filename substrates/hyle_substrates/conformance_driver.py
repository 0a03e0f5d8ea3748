"""Checks of a matrix driver."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from hyle_substrates.conformance import ERROR_RATE, Rig, Skipped, Subject, demand, refused
from hyle_substrates.driver import Codes, Device, DeviceError, Driver
from hyle_substrates.io import noise_std

__all__ = ["CHECKS"]

SAMPLES = 24
READS = 400
# Levels from which on a fraction of a converter's range can still be told from another.
FINE = 4


@contextmanager
def _opened(subject: Subject[Driver]) -> Iterator[tuple[Driver, Device]]:
    driver = subject.connect()
    try:
        yield driver, driver.describe()
    finally:
        driver.close()


def _targets(device: Device, seed: int = 0, rows: int = 16, cols: int = 8) -> Codes:
    shape = (min(rows, device.profile.array.rows), min(cols, device.profile.array.cols))
    targets = _draw(shape, device.profile.weights.levels, seed, negative=True)
    targets[0, 0] = device.profile.weights.levels or 1
    return targets


def _codes(device: Device, targets: Codes, batch: int = SAMPLES, seed: int = 1) -> Codes:
    dac = device.profile.dac
    return _draw((batch, len(targets)), dac.levels, seed, negative=not dac.nonnegative)


def _draw(shape: tuple[int, ...], levels: int, seed: int, *, negative: bool) -> Codes:
    rng = np.random.default_rng(seed)
    if levels:
        return rng.integers(-levels if negative else 0, levels + 1, shape).astype(np.int32)
    continuous: Codes = rng.uniform(-1.0 if negative else 0.0, 1.0, shape).astype(np.float32)
    return continuous


def _within_range(device: Device, targets: Codes, codes: Codes, share: float = 1.0) -> Codes:
    """Drive less: `codes` times `share`, or less where exact answers would come near the ends of the ADC's range.

    A DAC of too few levels for that is driven at fewer places instead, by vectors whose exact answers are within.
    """
    profile = device.profile
    top = 0.75 * profile.adc.levels if profile.adc.levels >= FINE else profile.adc.levels

    def peaks(driven: Codes) -> np.ndarray:
        exact = driven.astype(np.float64) @ targets * profile.read_unit
        exact += profile.reference * driven.sum(axis=1, keepdims=True)
        highest: np.ndarray = np.abs(exact).max(axis=1)
        return highest

    if top:
        share = min(share, top / max(float(peaks(codes).max()), top))
    if not profile.dac.levels or profile.dac.levels * share >= FINE:
        return (codes * share).astype(codes.dtype)
    kept = np.random.default_rng(6).random(codes.shape) < share**2
    fewer: Codes = codes * kept
    if top:
        fewer[peaks(fewer) > top] = 0
    return fewer


def _noise(device: Device, targets: Codes, codes: Codes) -> np.ndarray:
    """Standard deviation that the profile states for a read, samples by columns, in ADC codes."""
    profile = device.profile
    if not profile.signal_noise:
        return np.full((len(codes), targets.shape[1]), profile.noise_codes)
    power = np.sum(codes.astype(np.float64) ** 2, axis=1, keepdims=True)
    light = _light(device, targets, codes)
    std = noise_std(power, light, profile.noise_codes, profile.weight_noise_codes, profile.shot_noise_codes)
    return np.broadcast_to(np.asarray(std, dtype=np.float64), (len(codes), targets.shape[1]))


def _light(device: Device, targets: Codes, codes: Codes) -> np.ndarray:
    """Sum of the magnitudes that make a read, samples by columns, in ADC codes."""
    profile, driven = device.profile, np.abs(codes.astype(np.float64))
    light: np.ndarray = driven @ np.abs(targets) * profile.read_unit
    light += profile.reference * driven.sum(axis=1, keepdims=True)
    return light


def _rounding(device: Device) -> float:
    """Largest change of a code by the converter alone."""
    return 0.5 if device.profile.adc.levels else 1e-3


def describes_itself(subject: Subject[Driver]) -> None:
    """Identity, tiles and health are there and finite."""
    with _opened(subject) as (_, device):
        demand(device.identity, "The identity is empty.")
        demand(device.tiles >= 1, f"It has {device.tiles} tiles.")
        demand(all(math.isfinite(value) for value in device.health.values()), "A reading is not finite.")


def answers_codes_in_range(subject: Subject[Driver]) -> None:
    """Full drive of full weights stays within the ADC's codes, in the promised shape and type."""
    with _opened(subject) as (driver, device):
        targets = np.full_like(_targets(device), device.profile.weights.levels or 1)
        driver.program(0, targets)
        codes = np.full_like(_codes(device, targets, 4), device.profile.dac.levels or 1)
        answer = driver.apply([0], codes)
        demand(answer.shape == (4, targets.shape[1]), f"The answer's shape is {answer.shape}.")
        top = device.profile.adc.levels
        demand(np.isfinite(answer).all(), "The answer is not finite.")
        demand(not top or (answer.dtype.kind == "i" and np.abs(answer).max() <= top), f"A code exceeds {top}.")


def holds_what_was_programmed(subject: Subject[Driver]) -> None:
    """Driven with many vectors, the matter gives its targets back within write errors, noise and rounding."""
    with _opened(subject) as (driver, device):
        targets = _targets(device)
        report = driver.program(0, targets)
        demand(report.tile == 0 and not report.residual < 0 and report.seconds >= 0, f"The report says {report}.")
        profile = device.profile
        codes = _within_range(device, targets, _codes(device, targets, 400))
        answers = driver.apply([0], codes).astype(np.float64)
        unit = profile.read_unit
        answers -= profile.reference * codes.sum(axis=1, keepdims=True)
        found = np.linalg.lstsq(codes.astype(np.float64) * unit, answers, rcond=None)[0]
        gain = float(np.sum(found * targets) / np.sum(targets.astype(np.float64) ** 2))
        demand(gain > 0.05, f"The matter's gain is {gain:.3g} of what the profile says.")
        wrong = float(np.sqrt(np.mean((found / gain - targets) ** 2))) * profile.weight_unit
        noise = float(np.mean(_noise(device, targets, codes) ** 2))
        drive = float(np.sqrt(np.mean(codes.astype(np.float64) ** 2))) * unit
        # Rounding averages out where noise or the other rows move a column by a code; else it is the same every time.
        moved = math.sqrt(noise + (len(targets) - 1) * drive**2 * float(np.mean(targets.astype(np.float64) ** 2)))
        spread = math.sqrt(noise + _rounding(device) ** 2 * (1.0 if moved >= 1.0 else len(codes)))
        estimate = spread / (drive * math.sqrt(len(codes))) * profile.weight_unit / gain
        allowed = 2.0 * (report.residual if math.isfinite(report.residual) else 0.1) / gain + 3.0 * estimate + 1e-5
        demand(wrong <= allowed, f"The read-back differs by {wrong:.3g} of the highest weight; {allowed:.3g} allowed.")


def forgets_what_was_there_before(subject: Subject[Driver]) -> None:
    """A tile that is written twice holds the second targets."""
    with _opened(subject) as (driver, device):
        targets = _targets(device)
        codes = _codes(device, targets, 200)
        driver.program(0, targets)
        before = driver.apply([0], codes).astype(np.float64)
        driver.program(0, -targets)
        after = driver.apply([0], codes).astype(np.float64)
        shift = device.profile.reference * codes.sum(axis=1, keepdims=True)
        alike = np.corrcoef((before - shift).ravel(), (after - shift).ravel())[0, 1]
        demand(alike < 0.0, f"After the opposite was written, answers correlate {alike:.2f} with those before.")


def treats_samples_alone(subject: Subject[Driver]) -> None:
    """A sample's answer does not depend on its batch, within noise and rounding."""
    with _opened(subject) as (driver, device):
        targets = _targets(device)
        driver.program(0, targets)
        codes = _codes(device, targets)
        whole = driver.apply([0], codes).astype(np.float64)
        alone = np.concatenate([driver.apply([0], codes[i : i + 1]) for i in reversed(range(len(codes)))])[::-1]
        bound = _two_reads(device, targets, codes)
        demand((np.abs(whole - alone) <= bound).all(), "A sample's answer depends on its batch.")


def _two_reads(device: Device, targets: Codes, codes: Codes) -> np.ndarray:
    """Bound that the difference of two reads keeps in all but ERROR_RATE of the checks."""
    cases = len(codes) * targets.shape[1]
    deviates = math.sqrt(2.0 * math.log(2.0 * cases / ERROR_RATE))
    rounding = 1.0 if device.profile.adc.levels else 1e-3
    bound: np.ndarray = deviates * math.sqrt(2.0) * _noise(device, targets, codes)
    return bound + (rounding if bound.any() or not device.profile.adc.levels else 0.0)


def has_the_noise_it_states(subject: Subject[Driver]) -> None:
    """Repeated reads vary as the profile says: no more, and a simulated device no less either."""
    with _opened(subject) as (driver, device):
        targets = _targets(device)
        driver.program(0, targets)
        codes = _within_range(device, targets, _codes(device, targets, 1), 0.25)
        reads = driver.apply([0], np.repeat(codes, READS, axis=0)).astype(np.float64)
        measured = reads.var(axis=0, ddof=1)
        variance = _noise(device, targets, codes)[0] ** 2
        # Six standard deviations of a chi-square with 399 degrees of freedom: 1e-6 for its heavier, upper tail.
        slack = 6.0 * math.sqrt(2.0 / (READS - 1))
        room = 0.25 if device.profile.adc.levels else 1e-9
        # A float32 sum of n products is off by at most n eps of their magnitudes (Higham 2002, 4.2), and in another row
        # of a batch by something else.
        rounding = (len(targets) * np.finfo(np.float32).eps * _light(device, targets, codes)[0]) ** 2
        most = variance * (1 + slack) + room * (variance > 0) + rounding
        demand((measured <= most).all(), "There is more noise than stated.")
        if device.simulated:
            demand((measured >= variance * (1 - slack) - room).all(), "There is less noise than stated.")


def repeats_itself_by_seed(subject: Subject[Driver]) -> None:
    """Opened twice with the same options, a simulated device gives the same answers."""

    def once() -> Codes:
        with _opened(subject) as (driver, device):
            if not device.simulated or "connected" in device.health:
                raise Skipped("attached matter goes on where it was")
            targets = _targets(device)
            driver.program(0, targets)
            return driver.apply([0], _codes(device, targets))

    demand(np.array_equal(once(), once()), "The same seed gave two answers.")


def refuses_what_is_wrong(subject: Subject[Driver]) -> None:
    """NaN, codes and targets out of range, wrong shapes, tiles that are not there or not programmed."""
    with _opened(subject) as (driver, device):
        profile, targets = device.profile, _targets(device)
        codes = _codes(device, targets, 2)
        refused(lambda: driver.apply([0], codes), "A tile that was never programmed")
        driver.program(0, targets)
        good = driver.apply([0], codes)
        refused(lambda: driver.program(device.tiles, targets), "A tile that is not there")
        refused(lambda: driver.program(0, np.full(targets.shape, np.nan)), "A target that is NaN")
        if profile.weights.levels:
            refused(lambda: driver.program(0, np.full_like(targets, profile.weights.levels + 1)), "A target too high")
        refused(lambda: driver.apply([0], np.full(codes.shape, np.nan)), "A code that is NaN")
        refused(lambda: driver.apply([0], np.concatenate([codes, codes], axis=1)), "Codes of too many rows")
        if profile.dac.levels:
            refused(lambda: driver.apply([0], np.full_like(codes, profile.dac.levels + 1)), "A code too high")
        bound = _two_reads(device, targets, codes)
        demand((np.abs(driver.apply([0], codes) - good) <= bound).all(), "A refusal changed the answers.")


def refuses_a_second_owner(subject: Subject[Driver]) -> None:
    """While one program owns the device, another is refused, and the first goes on."""
    with _opened(subject) as (driver, device):
        if device.simulated and "connected" not in device.health:
            raise Skipped("every twin is a device of its own")
        refused(subject.connect, "A second owner")
        driver.program(0, _targets(device))


def says_so_when_it_is_unplugged(subject: Subject[Driver]) -> None:
    """Unplugged, calls fail and health says so; plugged in again, the same programming answers without a call."""
    rig = _rig(subject)
    _absence(subject, rig.unplug, rig.replug)


def gives_up_on_a_device_that_hangs(subject: Subject[Driver]) -> None:
    """Frozen, a call fails within the timeout; thawed, the driver serves again by itself."""
    rig = _rig(subject)
    _absence(subject, rig.freeze, rig.thaw)


def _rig(subject: Subject[Driver]) -> Rig:
    if subject.rig is None:
        raise Skipped("nothing here can take the device away; give --unplug and --replug")
    return subject.rig


def _absence(subject: Subject[Driver], leave: Callable[[], None], back: Callable[[], None]) -> None:
    with _opened(subject) as (driver, device):
        targets = _targets(device)
        driver.program(0, targets)
        codes = _codes(device, targets)
        before = driver.apply([0], codes).astype(np.float64)
        leave()
        try:
            started = time.monotonic()
            refused(lambda: driver.apply([0], codes), "A call to a device that is away")
            demand(time.monotonic() - started < subject.timeout_s, "The call did not give up in time.")
            demand(driver.describe().health.get("connected") == 0.0, "Health does not say that the device is away.")
        finally:
            back()
        until = time.monotonic() + subject.timeout_s
        while driver.describe().health.get("connected") != 1.0:
            demand(time.monotonic() < until, "The driver did not find the device again.")
            time.sleep(0.05)
        after = driver.apply([0], codes).astype(np.float64)
        if device.profile.adc.levels and not device.profile.noise_factor and not device.simulated:
            demand(np.array_equal(before, after), "The device came back with other matter.")
        alike = np.corrcoef(before.ravel(), after.ravel())[0, 1]
        demand(alike > 0.9, f"The device came back with other matter: correlation {alike:.2f}.")


def ends_when_it_is_closed(subject: Subject[Driver]) -> None:
    """After `close`, calls fail, and the device can be opened again."""
    with _opened(subject) as (driver, device):
        targets = _targets(device)
        driver.program(0, targets)
        driver.close()
        refused(lambda: driver.apply([0], _codes(device, targets)), "A call after close")
    until = time.monotonic() + subject.timeout_s
    while True:
        try:
            with _opened(subject):
                return
        except DeviceError:
            demand(time.monotonic() < until, "The device cannot be opened again after it was closed.")
            time.sleep(0.05)


CHECKS = (
    describes_itself,
    answers_codes_in_range,
    holds_what_was_programmed,
    forgets_what_was_there_before,
    treats_samples_alone,
    has_the_noise_it_states,
    repeats_itself_by_seed,
    refuses_what_is_wrong,
    refuses_a_second_owner,
    gives_up_on_a_device_that_hangs,
    says_so_when_it_is_unplugged,
    ends_when_it_is_closed,
)
