"""Every method that a matrix substrate admits, same task, same samples, several seeds: what it wins over no training.

Run: python benchmarks/bench_methods.py [--targets NAME ...] [--seeds 5] [--model digits_mlp] [--mismatch 0.15]
     [--budget 6000] [--factor 1.0] [--figure FILE.svg] [--json FILE]
The task: a digits model, one device a weight. Every seed is one device: gains of its weights, rows and columns are off
by a standard deviation of the mismatch, for good, and its noise is (1 + mismatch) times its sheet's. In-silico trains
on the sheet's twin; every other method has the device, and no more samples through it than the budget. All learn on the
calibration samples, are written to their device anew and judged on eval.npz, with the agent's affine correction.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hyle_compiler.adapt.method import Budget, Task
from hyle_compiler.adapt.registry import abilities, load_method, method_names
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

ROOT = Path(__file__).resolve().parents[1]
AGES_S = (25.0, 86400.0, 31536000.0)
BATCH = 50
COST = {"spsa": 4 * BATCH, "finite-difference": 42 * BATCH, "cma-es": 13 * BATCH, "forward-forward": 3 * BATCH}
COST["phyll"] = COST["forward-forward"]
TARGETS = ("pcm-generic", "rram-neurram", "flash-sonos", "sram-mc2ram", "mzi-64", "mrr-16", "slm-wang2022")


def scaled(profile: Profile, factor: float) -> Profile:
    """The profile with the noise of its reads, and on phase-change memory write errors and drift, `factor` times."""
    physics = dict(profile.physics)
    if profile.substrate == "pcm":
        physics["program_us"] = [value * factor for value in physics["program_us"]]
        for law in ("drift_mean", "drift_std"):
            physics[law] = {key: value * factor if key != "law" else value for key, value in physics[law].items()}
    noise = msgspec.structs.replace(profile.noise, output_std=profile.noise.output_std * factor)
    return msgspec.structs.replace(profile, physics=physics, noise=noise)


def judged(task: Task, driver: TwinDriver, held: Samples, writes: int = 1) -> list[float]:
    """Accuracy at every age on one device, mean over several writes of it."""
    import torch
    from hyle_compiler.adapt.device import OnDevice
    from hyle_compiler.adapt.torch_view import torch_view

    torch.manual_seed(task.seed)
    view = torch_view(task.model, task.layers, task.profile)
    x = [torch.tensor(array) for array in held.arrays.values()]
    labels = torch.tensor(held.labels.reshape(-1).astype(np.int64))
    scores = []
    for _ in range(writes):
        written = OnDevice(task, driver)
        for age in AGES_S:
            driver.advance(age)
            written.look()
            with torch.no_grad(), view.on(written):
                scores.append(float((view.logits(*x).argmax(1) == labels).float().mean()))
    found: list[float] = np.array(scores).reshape(writes, len(AGES_S)).mean(axis=0).tolist()
    return found


def device(twin: Profile, share: float, seed: int) -> TwinDriver:
    """Device `seed`: gains of weights, rows and columns off by `share` for good, and the noise that much larger."""
    real = scaled(twin, 1.0 + share)
    made = TwinDriver(real, 500 + seed, mismatch=Mismatch(share, share, share))
    made.advance(3600.0)
    return made


def one(folder: Path, name: str | None, seed: int, twin: Profile, share: float, budget: int) -> dict[str, Any]:
    model = simplify(read_model(folder / "model.onnx"))
    parts, specs = partition(model), input_specs(model)
    calib, held = load_samples(folder / "calib.npz", specs), load_samples(folder / "eval.npz", specs)
    began, passes = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as scratch:
        layers = calibrated_layers(Path(scratch), model, parts.physical, calib, twin, 1, seed)
        limit = Budget(steps=max(1, budget // COST.get(name or "", BATCH)), epochs=1000, batch=BATCH)
        goal = find_goal(Path(scratch), model, calib)
        task = Task(model, layers, calib, goal, twin, "affine", seed, limit, Path(scratch), augment="shift")
        if name is not None:
            driver = None if name == "in-silico" else device(twin, share, seed)
            adapted = load_method(name).run(replace(task, driver=driver))
            passes = 0 if driver is None else adapted.passes
            write_back(model, parts.physical, adapted)
            parts = partition(model)
            layers = calibrated_layers(Path(scratch), model, parts.physical, calib, twin, 1, seed)
        seconds = time.monotonic() - began
        scores = judged(replace(task, layers=layers), device(twin, share, seed), held)
    return {"method": name or "as compiled", "seed": seed, "scores": scores, "passes": passes, "seconds": seconds}


def interval(values: list[float]) -> float:
    """Half the 95 % confidence interval of a mean (Student's t)."""
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26}.get(len(values), 2.0)
    return float(t * np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy after a year against passes, as an SVG without any library."""
    width, height, left, bottom = 720, 420, 60, 50
    points = {
        (r["method"], float(np.mean(r["passes"])), 100 * float(np.mean([s[-1] for s in r["scores"]]))) for r in rows
    }
    low = min(p[2] for p in points) - 1.0
    high = max(p[2] for p in points) + 1.0
    most = max(p[1] for p in points) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">'
    ]
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for tick in np.linspace(low, high, 6):
        y = height - bottom - (tick - low) / (high - low) * (height - 2 * bottom)
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.1f}</text>')
    for name, passes, score in sorted(points):
        x = left + np.log10(1.0 + passes) / np.log10(1.0 + most) * (width - left - 130)
        y = height - bottom - (score - low) / (high - low) * (height - 2 * bottom)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#246"/>')
        parts.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{name}</text>')
    parts.append(
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">samples through the device (log)</text>'
    )
    parts.append(f'<text x="{left}" y="20">top-1 in % one year after programming</text></svg>')
    path.write_text("\n".join(parts))


def measured(args: argparse.Namespace, target: str, twin: Profile) -> list[dict[str, Any]]:
    """All methods on one target: prints its table and returns its rows."""
    fitting = [n for n in method_names() if load_method(n).needs.abilities <= abilities(twin)]
    rows, table, base = [], [], []
    for name in [None, *(args.methods if args.methods is not None else fitting)]:
        folder = ROOT / "tests" / "data" / args.model
        runs = [one(folder, name, s, twin, args.mismatch, args.budget) for s in range(args.seeds)]
        row = {"method": runs[0]["method"], **{k: [r[k] for r in runs] for k in ("scores", "passes", "seconds")}}
        rows.append({"target": target, **row})
        means = [float(np.mean(s)) for s in row["scores"]]
        base = base or means
        won = [100 * (a - b) for a, b in zip(means, base, strict=True)]
        ages = [f"{100 * np.mean([s[i] for s in row['scores']]):.2f}" for i in range(3)]
        gain = "" if name is None else f"{np.mean(won):+.2f} ± {interval(won):.2f}"
        table.append([row["method"], *ages, gain, f"{np.mean(row['passes']):.0f}", f"{np.mean(row['seconds']):.1f}"])
        print(target, *table[-1], sep=" | ", flush=True)
    title = f"{args.model}, {target}, noise times {args.factor:g}, mismatch {args.mismatch:.0%}, {args.seeds} seeds"
    Console().table(title, ["method", "25 s", "1 d", "1 y", "won, 95 %", "passes", "seconds"], table)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="digits_mlp")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--budget", type=int, default=6000, help="samples through the device, or its twin in silico")
    parser.add_argument("--factor", type=float, default=1.0, help="the twin's noise, times the profile's")
    parser.add_argument("--mismatch", type=float, default=0.15)
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("skipped: torch is not installed", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for target in args.targets:
        twin = scaled(load_profile(target), args.factor)
        rows += measured(args, target, twin)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))
    if args.figure:
        figure(rows, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
