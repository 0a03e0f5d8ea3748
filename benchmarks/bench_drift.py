"""A simulated year of an agent that looks after a drifting device: alarms, their delay, false alarms, accuracy.

The agent's own care runs on a twin that ages by its profile's law and is driven like attached hardware. Three agents
are compared: one that is left alone, one that calibrates when its drift detector or its self-test's bound calls for
it, and one on matter that stands still, whose alarms are all false. `sigmas` is the residual's growth over its
reference, in standard deviations of the reference, when the first alarm came. Accuracies are without and with care.

Run: python benchmarks/bench_drift.py [--instances N] [--tests-a-day T] [--model NAME] [--targets NAME ...]
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hyle_agent.control import Controller
from hyle_agent.cusum import chain_arl, limit_for, siegmund_arl
from hyle_agent.device_thread import DeviceThread
from hyle_agent.drift import LEARNED
from hyle_agent.events import Event, Events
from hyle_agent.executor import load
from hyle_agent.loading import SlotLoader
from hyle_agent.models import Models
from hyle_agent.policy import Policy
from hyle_agent.store import Store
from hyle_agent.trust import Trust
from hyle_bundle import open_bundle
from hyle_substrates.ageing import AgeingTwin
from hyle_substrates.profile import load_profile
from hyle_substrates.twin import TwinDriver

import hyle
from hyle.console import Console

ROOT = Path(__file__).resolve().parents[1] / "tests" / "data"
TARGETS = ("pcm-generic", "pcm-generic/global", "rram-neurram", "flash-sonos")
DAY_S = 86_400.0
YEAR_S = 365.0 * DAY_S
BEGIN_S = 25.0
STILL_S = 1e-3


@dataclass
class Year:
    """What a year brought."""

    accuracy: dict[str, float] = field(default_factory=dict)
    alarms: list[float] = field(default_factory=list)
    recalibrations: int = 0
    failures: int = 0
    sigmas: float = math.nan
    tests: int = 0


def compiled(target: str, model: Path, folder: Path) -> Path:
    """Compile a model; `NAME/MODE` takes another compensation than the profile's."""
    name, _, mode = target.partition("/")
    out = folder / f"{name}-{mode}.hyle"
    hyle.compile(
        model / "model.onnx",
        target=name,
        calib=model / "calib.npz",
        output=out,
        name="digits",
        version="1",
        **({"compensation": mode} if mode else {}),
    )
    return out


@contextmanager
def agent(
    bundle: Path, seed: int, policy: Policy, clock: list[float], heard: list[Event], speed: float
) -> Iterator[tuple[Controller, Models]]:
    """An agent without a network on a twin that is as old as `clock` says, with the bundle serving."""
    with open_bundle(bundle) as opened, tempfile.TemporaryDirectory() as folder:
        profile = load_profile(opened.manifest.target)

        def connect() -> AgeingTwin:
            twin = TwinDriver(profile, seed)
            return AgeingTwin(twin, age_s=BEGIN_S, speed=speed, clock=lambda: clock[0], grain=0.0)

        device = DeviceThread(connect, capacity=64)
        device.start()
        store, models = Store(Path(folder) / "store"), Models()
        loader = SlotLoader(device, load, Trust((), insecure=True), threads=1)
        control = Controller(store, loader, models, lambda: None, policy, Events(heard.append))
        names = {entry.sha256: name for name, entry in opened.manifest.files.items()}
        for digest, entry in control.plan(opened.manifest_bytes, b"").items():
            receipt = control.uploads.begin(digest, entry.size)
            receipt.write(bytes(opened.read(names[digest])))
            receipt.finish()
        done = control.install(opened.manifest_bytes, b"")
        control.activate(done.model, done.digest)
        try:
            yield control, models
        finally:
            store.close()
            device.stop(10.0)


def accuracy(models: Models, samples: Mapping[str, np.ndarray]) -> float:
    """Share of the samples that the active slot's program names rightly, whether it passes its test or not."""
    model = models.get("digits")
    loaded = model.loaded[model.state.active]
    (name,) = (info.name for info in loaded.manifest.inputs)
    output = loaded.manifest.outputs[0].name
    answers = loaded.program.run({name: samples[name].astype(np.float32)})[output]
    return float(np.mean(answers.argmax(1) == samples["labels"]))


def live(
    bundle: Path,
    samples: Mapping[str, np.ndarray],
    seed: int,
    days: float,
    tests_a_day: float,
    *,
    cared: bool,
    drifts: bool = True,
) -> Year:
    """Let an agent live for `days`; every test is one look of its own care."""
    step_s = DAY_S / tests_a_day
    policy = Policy(test_s=step_s, false_alarm_s=YEAR_S if cared or not drifts else 0.0, recalibrate=cared and drifts)
    clock, heard, year = [0.0], [], Year()
    marks = {"1 d": DAY_S, "30 d": 30 * DAY_S, "1 y": YEAR_S}
    with agent(bundle, seed, policy, clock, heard, 1.0 if drifts else STILL_S / step_s) as (control, models):
        model = models.get("digits")
        while clock[0] < days * DAY_S - 1.0:
            clock[0] += step_s
            drift = model.drift
            reference = drift.reference if drift is not None else None
            told = len(heard)
            control.look("digits")
            year.tests += 1
            for event in heard[told:]:
                if event.kind == "drift-alarm":
                    year.alarms.append(clock[0])
                    if reference is not None and math.isnan(year.sigmas):
                        year.sigmas = (float(event.data["residual"]) - reference.mean) / reference.std
                year.recalibrations += event.kind == "recalibration"
                year.failures += event.kind == "self-test-failed"
            for name, at in marks.items():
                if name not in year.accuracy and clock[0] >= at - 1.0:
                    year.accuracy[name] = accuracy(models, samples)
    return year


def row(target: str, data: Path, folder: Path, instances: int, tests_a_day: float) -> list[object]:
    """One line of the table: means over instances."""
    bundle = compiled(target, data, folder)
    days = YEAR_S / DAY_S
    with np.load(data / "eval.npz") as file:
        samples = {name: file[name] for name in file.files}
    alone = [live(bundle, samples, seed, days, tests_a_day, cared=False) for seed in range(instances)]
    cared = [live(bundle, samples, seed, days, tests_a_day, cared=True) for seed in range(instances)]
    still = [live(bundle, samples, seed, days, tests_a_day, cared=True, drifts=False) for seed in range(instances)]
    first = [year.alarms[0] / DAY_S for year in cared if year.alarms]
    sigmas = [year.sigmas for year in cared if not math.isnan(year.sigmas)]
    points = [
        f"{100 * np.mean([y.accuracy[at] for y in alone]):.1f} → {100 * np.mean([y.accuracy[at] for y in cared]):.1f}"
        for at in ("1 d", "30 d", "1 y")
    ]
    return [
        target,
        f"{np.mean(first):.1f} ({len(first)}/{instances})" if first else f"none (0/{instances})",
        f"{np.mean(sigmas):.1f}" if sigmas else "–",
        f"{np.mean([len(y.alarms) for y in cared]):.1f}",
        f"{np.mean([y.recalibrations for y in cared]):.1f}",
        f"{sum(len(y.alarms) for y in still)} in {instances}",
        *points,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--tests-a-day", type=float, default=4.0)
    parser.add_argument("--model", default="digits_mlp", help="a folder of tests/data")
    parser.add_argument("--targets", nargs="*", default=TARGETS)
    args = parser.parse_args()
    arl = YEAR_S * args.tests_a_day / DAY_S
    limit = limit_for(arl)
    console = Console()
    console.say(
        f"{args.tests_a_day:g} tests a day, stated rate one false alarm a year: limit {limit:.2f}, "
        f"{arl:.0f} tests by Siegmund, {chain_arl(limit):.0f} by the Markov chain; after the {LEARNED} tests of the "
        f"reference a shift of one standard deviation is found in {siegmund_arl(limit, 1.0):.0f} tests, of two in "
        f"{siegmund_arl(limit, 2.0):.0f}"
    )
    columns = ["target", "first alarm, days", "sigmas", "alarms/y", "calibrations/y", "false alarms, years"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row(target, ROOT / args.model, Path(folder), args.instances, args.tests_a_day) for target in args.targets
        ]
    console.table("", [*columns, *(f"accuracy {at}" for at in ("1 d", "30 d", "1 y"))], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
