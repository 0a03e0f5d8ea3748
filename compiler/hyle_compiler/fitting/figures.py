"""How well a twin predicts: correlation and error, with intervals, on samples that it never saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hyle_substrates.fit_record import Interval

from hyle_compiler.fitting.drive import DRIVES, Measured
from hyle_compiler.fitting.twin import Floats

Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["Figures", "judge", "noise_power"]

RESAMPLES = 1000


class Figures:
    """Figures of one twin on one device.

    Args:
        predicted: Samples by outputs.
        read: The same, from the device.
        mean: One number an output, what "no prediction" would say.
        rng: Draws the resampled sets.
    """

    def __init__(self, predicted: Floats, read: Floats, mean: Floats, rng: np.random.Generator) -> None:
        p, r = predicted - mean, read - mean
        self._sums = np.stack([(p * r).sum(1), (p * p).sum(1), (r * r).sum(1), ((p - r) ** 2).sum(1)], axis=1)
        self._picks = rng.integers(0, len(read), (RESAMPLES, len(read)))

    def correlation(self) -> Interval:
        """Pooled correlation of the deviations from the mean."""
        return self._interval(lambda s: s[..., 0] / np.sqrt(np.maximum(s[..., 1] * s[..., 2], 1e-300)))

    def error(self) -> Interval:
        """Relative root-mean-square error."""
        return self._interval(lambda s: np.sqrt(s[..., 3] / np.maximum(s[..., 2], 1e-300)))

    def _interval(self, figure: Callable[[Floats], Floats]) -> Interval:
        drawn = figure(self._sums[self._picks].sum(axis=1))
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Interval(float(figure(self._sums.sum(axis=0))), float(low), float(high))


def judge(predicted: Floats, measured: Measured, mean: Floats, seed: int) -> dict[str, object]:
    """Return the fields of a `FitRecord` that say how good the twin is.

    Args:
        predicted: The twin's answers to all that was measured.
        measured: What the device said.
        mean: Mean reading of each output over the training samples.
        seed: Seed of the bootstrap.
    """
    read, count = measured.readings, len(measured.readings)
    held = measured.plan.roles(count)[2]
    figures = Figures(predicted[held], read[held], mean, np.random.default_rng([seed, 0x626F6F74]))
    drive = measured.plan.drive[:count]
    kinds = {name: held & (drive == index) for index, name in enumerate(DRIVES)}
    kinds = {name: mask for name, mask in kinds.items() if mask.any()}
    drives = {name: _relative(predicted[mask] - read[mask], read[mask] - mean) for name, mask in kinds.items()}
    return {
        "held_out": int(held.sum()),
        "correlation": figures.correlation(),
        "error": figures.error(),
        "repeatability": float(np.sqrt(np.mean(noise_power(measured)) / np.mean((read[held] - mean) ** 2))),
        "drives": drives,
        "error_std": tuple(_worst(predicted, read, list(kinds.values())).tolist()),
    }


def _relative(wrong: Floats, signal: Floats) -> float:
    power = float(np.mean(signal**2))
    return float(np.sqrt(np.mean(wrong**2) / power)) if power else 0.0


def _worst(predicted: Floats, read: Floats, kinds: list[Mask]) -> Floats:
    """Root-mean-square error of each output for the kind of drive where all outputs together are worst."""
    errors = [np.sqrt(np.mean((predicted[mask] - read[mask]) ** 2, axis=0)) for mask in kinds]
    return max(errors, key=lambda error: float(np.sum(error**2)))


def noise_power(measured: Measured) -> Floats:
    """Variance of each output between two readings of one drive, over 2; zeros where none was read twice."""
    count = len(measured.readings)
    second = np.flatnonzero(measured.plan.repeats[:count] >= 0)
    if not len(second):
        return np.zeros(measured.readings.shape[1])
    apart = measured.readings[second] - measured.readings[measured.plan.repeats[second]]
    power: Floats = np.mean(apart**2, axis=0) / 2.0
    return power
