"""One real device that differs from its twin: what training on the twin and on the device win back of what was lost.

Run: python benchmarks/bench_mismatch.py [--model DIR] [--mismatch 0.0 0.1 0.2 0.3] [--devices 5] [--copies 1]
     [--factor 2.0] [--rows NAME ...] [--json FILE]
The device: gains of every weight, row and column are off by a standard deviation of the mismatch, for good; its write
errors, drift and noise are (1 + mismatch) times the twin's, and drawn anew by every write. No method is told. A method
that has the device trains on it; all are then written to it anew, `--writes` times, and judged on eval.npz, three ages.
`--figure` draws accuracy against mismatch, also from results that `--json` kept before (`--from FILE ...`, no run).
Recovered: (method - plain) / (float - plain), both by their mean over ages and devices; `plain` is once the compiled
model as it is, without any measurement, and once with the agent's affine correction. `oracle` trains on a twin that
knows every gain of the device: what a method could reach at best in the same number of steps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_accuracy import ROOT, prepared
from bench_methods import AGES_S, interval, judged, scaled
from hyle_compiler.adapt.checkpoint import Checkpoint
from hyle_compiler.adapt.method import Adapted, Augment, Budget, Task
from hyle_compiler.adapt.registry import load_method
from hyle_compiler.adapting import calibrated_layers, find_goal, write_back
from hyle_compiler.inputs import input_specs
from hyle_compiler.partition import partition
from hyle_compiler.read import read_model
from hyle_compiler.samples import Samples, load_samples
from hyle_compiler.simplify import simplify
from hyle_substrates.mismatch import Mismatch
from hyle_substrates.profile import Profile, load_profile
from hyle_substrates.twin import TwinDriver

from hyle.console import Console

PLAIN, AFFINE = "plain, nothing measured", "plain, affine correction"
ROWS = (PLAIN, AFFINE, "none", "in-silico", "pat", "oracle")


@dataclass(frozen=True, slots=True)
class Bench:
    """What stays the same for all rows: files, the twin, and how long methods may learn."""

    folder: Path
    scratch: Path
    twin: Profile
    epochs: int
    device_epochs: int
    batch: int
    copies: int | None
    writes: int
    augment: Augment

    @property
    def start(self) -> Path:
        """Where the weights lie that were learned on the twin."""
        return self.scratch / "twin.npz"

    def samples(self, split: str, specs: Any) -> Samples:
        """The samples of one split."""
        return load_samples(prepared(self.folder, split, self.scratch), specs)


def device(bench: Bench, share: float, number: int) -> TwinDriver:
    """Device `number`: not the twin, and the same one whenever it is asked for."""
    real = scaled(bench.twin, 1.0 + share)
    return TwinDriver(real, 500 + number, mismatch=Mismatch(share, share, share))


def task_of(bench: Bench, compensation: Any, seed: int, epochs: int) -> Task:
    """The task on the float model."""
    model = simplify(read_model(bench.folder / "model.onnx"))
    specs = input_specs(model)
    calib = bench.samples("calib", specs)
    learnt = bench.samples("train", specs) if (bench.folder / "train.npz").is_file() else calib
    physical = partition(model).physical
    layers = calibrated_layers(bench.scratch, model, physical, calib, bench.twin, bench.copies, seed)
    budget = Budget(epochs=epochs, batch=bench.batch)
    goal = find_goal(bench.scratch, model, learnt)
    place = (bench.scratch, None, bench.augment)
    return Task(model, layers, learnt, goal, bench.twin, compensation, seed, budget, *place)


def taught(bench: Bench) -> float:
    """Train on the twin once, for all devices, and keep it where the other methods begin; how long it took."""
    began = time.monotonic()
    task = task_of(bench, "affine", 0, bench.epochs)
    adapted = load_method("in-silico").run(task)
    kept = {f"{name}/matrix": matrix for name, matrix in adapted.matrices.items()}
    biases = {f"{name}/bias": bias for name, bias in adapted.biases.items()}
    Checkpoint(replace(task, checkpoint=bench.start)).write(kept | biases)
    return time.monotonic() - began


def adapted_to(bench: Bench, row: str, task: Task, share: float, number: int) -> Adapted:
    """What a row learns for one device."""
    if row == "in-silico":
        with np.load(bench.start) as file:
            names = [layer.placed.layer.name for layer in task.layers]
            matrices, biases = ({n: file[f"{n}/{part}"] for n in names} for part in ("matrix", "bias"))
            return Adapted(matrices, biases, "finished", 0, 0.0)
    driver = device(bench, share, number)
    driver.advance(3600.0)
    if row == "none":
        return load_method(row).run(replace(task, driver=driver))
    started = bench.scratch / "started.npz"
    shutil.copy(bench.start, started)
    task = replace(task, checkpoint=started)
    if row == "oracle":
        from mismatch_oracle import oracle

        real = scaled(bench.twin, 1.0 + share)
        return oracle(replace(task, profile=real), Mismatch(share, share, share), 500 + number)
    return replace(load_method(row), in_silico=0.0).run(replace(task, driver=driver))  # type: ignore[type-var]


def one(bench: Bench, row: str, share: float, number: int) -> dict[str, Any]:
    """Adapt for one device and judge on it."""
    task = task_of(bench, "none" if row == PLAIN else "affine", number, bench.device_epochs)
    began = time.monotonic()
    if row not in (PLAIN, AFFINE):
        adapted = adapted_to(bench, row, task, share, number)
        write_back(task.model, partition(task.model).physical, adapted)
        physical, specs = partition(task.model).physical, input_specs(task.model)
        calib = bench.samples("calib", specs)
        model, twin = task.model, bench.twin
        task = replace(
            task, layers=calibrated_layers(bench.scratch, model, physical, calib, twin, bench.copies, number)
        )
    seconds = time.monotonic() - began
    held = bench.samples("eval", input_specs(task.model))
    scores = judged(task, device(bench, share, number), held, bench.writes)
    return {"row": row, "mismatch": share, "device": number, "scores": scores, "seconds": seconds}


def recovered(rows: list[dict[str, Any]], row: str, share: float, floor: str, top: float) -> str:
    """Share of what `floor` loses of the float accuracy that `row` wins back, with its 95 % interval over devices."""

    def means(name: str) -> np.ndarray[Any, Any]:
        return np.array([np.mean(r["scores"]) for r in rows if r["row"] == name and r["mismatch"] == share])

    base, mine = means(floor), means(row)
    if not len(base) or len(base) != len(mine):
        return ""
    lost = top - float(base.mean())
    if lost < 0.005:
        return "nothing lost"
    won = (mine - base) / lost
    return f"{100 * won.mean():.0f} ± {100 * interval(won.tolist()):.0f} %"


def float_accuracy(bench: Bench) -> float:
    """Accuracy of the float model."""
    from hyle_compiler.activations import start_session

    held = bench.samples("eval", input_specs(simplify(read_model(bench.folder / "model.onnx"))))
    answers = start_session(bench.folder / "model.onnx").run(None, dict(held.arrays))[0]
    return float(np.mean(answers.reshape(len(answers), -1).argmax(1) == held.labels.reshape(-1)))


def report(args: argparse.Namespace, bench: Bench, rows: list[dict[str, Any]], names: Sequence[str]) -> None:
    top, table = float_accuracy(bench), []
    for share in args.mismatch:
        for name in names:
            found = [r for r in rows if r["row"] == name and r["mismatch"] == share]
            if found:
                ages = [f"{100 * np.mean([r['scores'][i] for r in found]):.1f}" for i in range(len(AGES_S))]
                won = [
                    recovered(rows, name, share, floor, top) if name not in (PLAIN, floor) else ""
                    for floor in (PLAIN, AFFINE)
                ]
                table.append([f"{share:.0%}", name, *ages, *won, f"{np.mean([r['seconds'] for r in found]):.0f}"])
    title = f"{bench.folder.name}, float {100 * top:.1f}, {args.devices} devices, {args.writes} writes of each"
    heads = ["mismatch", "row", "25 s", "1 d", "1 y", "recovered of plain", "of affine", "s"]
    Console().table(title, heads, table)


def figure(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Accuracy, mean of ages and devices with its 95 % interval, against mismatch, one line a method."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "hyle"
    drawn = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = drawn.subplots()
    for name in dict.fromkeys(r["row"] for r in rows):
        shares = sorted({r["mismatch"] for r in rows if r["row"] == name})
        found = [[100 * np.mean(r["scores"]) for r in rows if (r["row"], r["mismatch"]) == (name, s)] for s in shares]
        means, errors = [np.mean(f) for f in found], [interval(f) for f in found]
        axes.errorbar([100 * s for s in shares], means, errors, marker="o", capsize=3, label=name)
    axes.set(
        title=title, xlabel="gains of weights, rows and columns off by, %", ylabel="top-1, mean of 25 s, 1 d, 1 y, %"
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    drawn.savefig(path, format="svg", metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "data" / "digits_cnn")
    parser.add_argument("--mismatch", type=float, nargs="*", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--devices", type=int, default=5)
    parser.add_argument("--writes", type=int, default=3)
    parser.add_argument("--copies", type=int, default=1, help="devices a weight; 0 for as many as there is room for")
    parser.add_argument("--factor", type=float, default=2.0, help="the twin's noise and drift, times the profile's")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--device-epochs", type=int, help="of PAT and oracle, after the twin's; a third by default")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--augment", default="shift", choices=["none", "shift", "shift+flip"])
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--from", dest="kept", type=Path, nargs="*", help="draw what was measured before")
    args = parser.parse_args()
    if args.kept:
        if args.figure is None:
            parser.error("--from needs --figure, the file to draw to")
        figure([r for path in args.kept for r in json.loads(path.read_text())], args.model.name, args.figure)
        return 0
    try:
        import torch
    except ImportError:
        print("skipped: torch is not installed", file=sys.stderr)
        return 0
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        twin = scaled(load_profile("pcm-generic"), args.factor)
        options = (
            args.epochs,
            args.device_epochs or -(-args.epochs // 3),
            args.batch,
            args.copies or None,
            args.writes,
            args.augment,
        )
        bench = Bench(args.model, Path(scratch), twin, *options)
        if {"in-silico", "pat", "oracle"} & set(args.rows):
            print(f"trained on the twin: {taught(bench):.0f} s", flush=True)
        for share in args.mismatch:
            for name in args.rows:
                for number in range(args.devices):
                    rows.append(one(bench, name, share, number))
                    print(json.dumps(rows[-1]), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(rows, indent=1))
        report(args, bench, rows, args.rows)
    if args.figure:
        figure(rows, args.model.name, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
