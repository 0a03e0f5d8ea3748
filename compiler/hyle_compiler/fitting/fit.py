"""`hyle fit`: from an attached black box to a file that predicts it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_bundle.atomic import replacing
from hyle_substrates.driver import BlackBox, BlackBoxInfo
from hyle_substrates.fit_record import FitError, FitRecord

from hyle_compiler.errors import OutputError
from hyle_compiler.fitting.drive import ROUND, Measured, Plan, measure
from hyle_compiler.fitting.families import Range, choose
from hyle_compiler.fitting.figures import judge, noise_power
from hyle_compiler.fitting.graph import twin_model

__all__ = ["FitOptions", "fit_device"]

LEAST = 3 * ROUND
"""Samples below which held-out figures would say nothing."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to fit.

    Attributes:
        name: What models call this matter; by default the file's name.
        driver: The driver's name, for the record.
        samples: How often the device is driven; by default by the count of its values.
        seed: Seed of the drive and of the twin.
        limit_s: Longest time that the device is driven.
    """

    name: str | None = None
    driver: str = ""
    samples: int | None = None
    seed: int = 0
    limit_s: float = 600.0


def fit_device(
    box: BlackBox, out: Path, options: FitOptions | None = None, progress: Callable[[str], None] = lambda text: None
) -> FitRecord:
    """Drive a black box, fit its twin, and write the file, whole or not at all.

    Args:
        box: The device.
        out: The ONNX file to write. `OUT.part` beside it keeps what was measured until then.
        options: See `FitOptions`.
        progress: Told what is being done.

    Returns:
        What the file says of itself.

    Raises:
        FitError: The device does not follow its inputs, or answered too few samples in the time.
        OutputError: The file cannot be written.
        DeviceError: The device failed; what was measured is kept.
    """
    options = options or FitOptions()
    name = options.name or _default_name(out)
    if out.is_dir() or not out.parent.is_dir():
        raise OutputError(f"{out} cannot be written.", remedy="Give the path of a file in a folder that exists.")
    info = box.describe()
    samples = options.samples or int(np.clip(20 * (info.parameters + info.inputs) + 400, 600, 4000))
    if samples < LEAST:
        raise FitError(f"{samples} samples are too few to judge a twin.", remedy=f"Give {LEAST} or more.")
    plan = Plan.draw(info, samples, options.seed)
    kept = out.with_name(f"{out.name}.part")
    measured = measure(
        box, info, plan, kept, key=_key(info, samples, options), limit_s=options.limit_s, progress=progress
    )
    if len(measured.readings) >= LEAST and not np.ptp(measured.readings, axis=0).any():
        kept.unlink(missing_ok=True)
        raise FitError("The readings do not follow the inputs.", remedy="Check that output and input are joined.")
    record, model = _fitted(info, measured, name, options, progress)
    progress("writing the twin")
    with replacing(out) as file:
        file.write(ir.to_proto(model).SerializeToString(deterministic=True))
    kept.unlink(missing_ok=True)
    return record


def _fitted(
    info: BlackBoxInfo, measured: Measured, name: str, options: FitOptions, progress: Callable[[str], None]
) -> tuple[FitRecord, ir.Model]:
    read, count = measured.readings, len(measured.readings)
    if count < LEAST:
        raise FitError(
            f"The device answered {count} samples in {options.limit_s:g} s; {LEAST} are the least.",
            remedy="Run the same command again to go on, or allow more time with --limit.",
        )
    train, validation, _ = measured.plan.roles(count)
    values = measured.plan.values[:count]
    pairs = (values[train], read[train]), (values[validation], read[validation])
    twin = choose(*pairs, Range(info.low, info.high), noise_power(measured), options.seed, progress)
    known: dict[str, Any] = judge(twin.predict(values), measured, read[train].mean(axis=0), options.seed)
    record = FitRecord(
        format="hyle-fit/1",
        name=name,
        driver=options.driver,
        identity=info.identity,
        simulated=info.simulated,
        parameters=info.parameters,
        inputs=info.inputs,
        outputs=info.outputs,
        low=info.low,
        high=info.high,
        seed=options.seed,
        family=twin.family,
        training=int(train.sum()),
        validation=int(validation.sum()),
        **known,
    )
    return record, twin_model(twin, record)


def _default_name(out: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", out.stem)
    return name if name[:1].isalpha() else f"box_{name}"[:64]


def _key(info: BlackBoxInfo, samples: int, options: FitOptions) -> str:
    words = (info.identity, info.parameters, info.inputs, info.outputs, info.low, info.high, samples, options.seed)
    return hashlib.sha256(repr(words).encode()).hexdigest()
