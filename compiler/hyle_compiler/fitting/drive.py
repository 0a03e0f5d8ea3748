"""Drive a black box at random, in pieces that survive an interruption."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hyle_bundle.atomic import replacing
from hyle_substrates.driver import BlackBox, BlackBoxInfo, DeviceError, Floats

__all__ = ["DRIVES", "Measured", "Plan", "measure"]

DRIVES = ("uniform", "narrow", "corners")
SHARES = (0.6, 0.25, 0.15)
ROUND = 20
ATTEMPTS = 3
FIRST_PIECE = 16
PIECE_S = 8.0

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is asked of the device, in order: every start of it is a plan too.

    In each round of 20 samples 13 are for training, 2 for the choice of a family, 4 are held out, and 1 repeats a
    sample of an earlier round that was held out.

    Attributes:
        values: Samples by parameters and inputs, in the device's range.
        drive: Index into `DRIVES` of each sample: over the whole range; around a centre of the sample's own; at
            either end of the range.
        repeats: Which sample this one repeats, or -1.
    """

    values: Floats
    drive: Indices
    repeats: Indices

    @classmethod
    def draw(cls, info: BlackBoxInfo, samples: int, seed: int) -> Plan:
        """Draw as many samples as asked for, rounded up to whole rounds."""
        count = -(-samples // ROUND) * ROUND
        rng = np.random.default_rng([seed, 0x66697400])
        size = info.parameters + info.inputs
        unit = rng.uniform(-1.0, 1.0, (count, size))
        drive = rng.choice(len(DRIVES), count, p=SHARES)
        centre, width = rng.uniform(-1.0, 1.0, (count, 1)), rng.uniform(0.0, 1.0, (count, 1))
        narrow = np.clip(centre + width * unit, -1.0, 1.0)
        narrow[:, : info.parameters] = unit[:, : info.parameters]
        chosen = np.select([drive[:, None] == 1, drive[:, None] == 2], [narrow, np.sign(unit)], unit)
        repeats = np.full(count, -1)
        for start in range(ROUND, count, ROUND):
            repeats[start + ROUND - 1] = rng.integers(start // ROUND) * ROUND + rng.integers(15, 19)
        again = repeats >= 0
        chosen[again], drive[again] = chosen[repeats[again]], drive[repeats[again]]
        values = info.low + (info.high - info.low) * (chosen + 1.0) / 2.0
        return cls(np.clip(values, info.low, info.high), drive, repeats)

    def roles(self, count: int) -> tuple[Mask, Mask, Mask]:
        """Masks of the first `count` samples: for training, for the choice, held out."""
        place = np.arange(count) % ROUND
        once = self.repeats[:count] < 0
        return ((place < 13) | (place == 19)) & once, (place >= 13) & (place < 15) & once, (place >= 15) & (place < 19)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Readings of the first samples of a plan, samples by outputs."""

    plan: Plan
    readings: Floats


def measure(
    box: BlackBox,
    info: BlackBoxInfo,
    plan: Plan,
    kept: Path,
    *,
    key: str,
    limit_s: float,
    progress: Callable[[str], None],
    pause_s: float = 1.0,
) -> Measured:
    """Drive the device through a plan, or as far as the time reaches.

    Args:
        box: The device.
        info: How it described itself.
        plan: What to drive.
        kept: File that holds what was measured so far; one with the same key is gone on with.
        key: Says which device, sizes and seed the file is of.
        limit_s: Longest time.
        progress: Told how far it is.
        pause_s: Wait before a piece that failed is driven again.

    Raises:
        DeviceError: The device failed three times in a row; what was measured is kept.
    """
    readings = _resume(kept, key, info.outputs)
    total = len(plan.values)
    readings = readings[:total]
    started, piece = time.monotonic(), FIRST_PIECE
    while len(readings) < total and time.monotonic() - started < limit_s:
        done = len(readings)
        progress(f"driving the device: {done} of {total} samples, {time.monotonic() - started:.0f} s")
        part = plan.values[done : done + piece]
        before = time.monotonic()
        answer = _insist(box, info, part, pause_s, kept)
        took = max(1e-3, time.monotonic() - before)
        readings = np.concatenate([readings, answer])
        _keep(kept, key, readings)
        piece = int(min(4 * piece, max(FIRST_PIECE, piece * PIECE_S / took)))
    return Measured(plan, readings)


def _insist(box: BlackBox, info: BlackBoxInfo, values: Floats, pause_s: float, kept: Path) -> Floats:
    parameters, inputs = values[:, : info.parameters], values[:, info.parameters :]
    for attempt in range(ATTEMPTS):
        try:
            answer = np.asarray(box.respond(parameters, inputs), dtype=np.float64)
        except DeviceError as error:
            if attempt + 1 < ATTEMPTS:
                time.sleep(pause_s)
                continue
            there = f" {kept} keeps what was measured: run the same command again to go on." if kept.exists() else ""
            raise DeviceError(
                f"The device failed {ATTEMPTS} times in a row: {error.message}", remedy=f"{error.remedy}{there}"
            ) from error
        if answer.shape != (len(values), info.outputs) or not np.isfinite(answer).all():
            raise DeviceError("The device's answer has holes.", remedy="Check the device and its driver.")
        return answer
    raise AssertionError


def _resume(kept: Path, key: str, outputs: int) -> Floats:
    nothing = np.zeros((0, outputs))
    try:
        with np.load(kept, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return nothing
            readings = np.asarray(file["readings"], dtype=np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return nothing
    return readings if readings.ndim == 2 and readings.shape[1] == outputs else nothing


def _keep(kept: Path, key: str, readings: Floats) -> None:
    with replacing(kept) as file:
        np.savez(file, key=np.array(key), readings=readings)
