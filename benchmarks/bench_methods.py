"""Every method that a matrix substrate admits, same task, same samples, several seeds: what it wins over no training.

Run: python benchmarks/bench_methods.py [--seeds 5] [--model digits_cnn] [--mismatch 0.0] [--figure FILE.svg]
The task: a digits model on pcm-generic with one pair a weight, noise and drift doubled, so that there is something to
win. Methods learn on the calibration samples and are judged on eval.npz, on devices that they have not seen, as torch's
view of the twin shows them. With `--mismatch m` the judges' write errors, drift and noise are (1 + m) times the twin's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hyle_compiler.adapt.method import Budget, Task
from hyle_compiler.adapt.registry import abilities, load_method, method_names
from hyle_compiler.adapting import calibrated_layers, write_back
from hyle_compiler.partition import partition
from hyle_compiler.pipeline import input_specs
from hyle_compiler.read import read_model
from hyle_compiler.samples import load_samples
from hyle_compiler.simplify import simplify
from hyle_substrates.profile import Profile, load_profile

from hyle.console import Console

ROOT = Path(__file__).resolve().parents[1]
AGES_S = (25.0, 86400.0, 31536000.0)
INSTANCES = 4
SHORT = {"spsa": 40, "finite-difference": 4, "cma-es": 12}


def scaled(profile: Profile, factor: float) -> Profile:
    """The profile with write errors, drift and noise `factor` times as large."""
    physics = dict(profile.physics)
    physics["program_us"] = [value * factor for value in physics["program_us"]]
    for law in ("drift_mean", "drift_std"):
        physics[law] = {key: value * factor if key != "law" else value for key, value in physics[law].items()}
    noise = msgspec.structs.replace(profile.noise, output_std=profile.noise.output_std * factor)
    return msgspec.structs.replace(profile, physics=physics, noise=noise)


def judged(model: Any, layers: Any, profile: Profile, samples: Any, seed: int) -> list[float]:
    """Mean accuracy at every age over devices that nobody trained on."""
    import torch
    from hyle_compiler.adapt.matter import Drawn
    from hyle_compiler.adapt.torch_view import torch_view

    torch.manual_seed(seed)
    view = torch_view(model, layers, profile)
    x = [torch.tensor(array) for array in samples.arrays.values()]
    labels = torch.tensor(samples.labels.astype(np.int64))
    found = []
    with torch.no_grad():
        for age in AGES_S:
            generator = torch.Generator().manual_seed(10_000 + seed)
            scores = []
            for _ in range(INSTANCES):
                with view.on(Drawn(profile, "affine", generator, age)):
                    scores.append(float((view.logits(*x).argmax(1) == labels).float().mean()))
            found.append(float(np.mean(scores)))
    return found


def one(folder: Path, name: str | None, seed: int, twin: Profile, real: Profile, epochs: int) -> dict[str, Any]:
    model = simplify(read_model(folder / "model.onnx"))
    parts, specs = partition(model), input_specs(model)
    calib, held = load_samples(folder / "calib.npz", specs), load_samples(folder / "eval.npz", specs)
    began, passes = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as scratch:
        layers = calibrated_layers(Path(scratch), model, parts.physical, calib, twin, 1, seed)
        if name is not None:
            budget = Budget(epochs=epochs, steps=SHORT.get(name), batch=50)
            driver = None
            if name == "pat":
                from hyle_substrates.twin import TwinDriver

                driver = TwinDriver(real, seed + 77)
                driver.advance(3600.0)
            task = Task(model, layers, calib, twin, "affine", seed, budget, Path(scratch), driver)
            adapted = load_method(name).run(task)
            passes = adapted.passes
            write_back(model, parts.physical, adapted)
            parts = partition(model)
            layers = calibrated_layers(Path(scratch), model, parts.physical, calib, twin, 1, seed)
        seconds = time.monotonic() - began
        scores = judged(model, layers, real, held, seed)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="digits_cnn")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--mismatch", type=float, default=0.0)
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
    twin = scaled(load_profile("pcm-generic"), 2.0)
    real = scaled(twin, 1.0 + args.mismatch)
    fitting = [n for n in method_names() if load_method(n).needs.abilities <= abilities(twin)]
    names = [None, *(args.methods if args.methods is not None else fitting)]
    rows: list[dict[str, Any]] = []
    base: list[float] = []
    table = []
    for name in names:
        runs = [one(ROOT / "tests" / "data" / args.model, name, s, twin, real, args.epochs) for s in range(args.seeds)]
        row = {"method": runs[0]["method"], **{k: [r[k] for r in runs] for k in ("scores", "passes", "seconds")}}
        rows.append(row)
        means = [float(np.mean(s)) for s in row["scores"]]
        base = base or means
        won = [100 * (a - b) for a, b in zip(means, base, strict=True)]
        ages = [f"{100 * np.mean([s[i] for s in row['scores']]):.2f}" for i in range(3)]
        gain = "" if name is None else f"{np.mean(won):+.2f} ± {interval(won):.2f}"
        table.append([row["method"], *ages, gain, f"{np.mean(row['passes']):.0f}", f"{np.mean(row['seconds']):.1f}"])
        print(*table[-1], sep=" | ", flush=True)
    title = f"{args.model}, pcm-generic doubled, one pair a weight, mismatch {args.mismatch:.0%}, {args.seeds} seeds"
    Console().table(title, ["method", "25 s", "1 d", "1 y", "won, 95 %", "passes", "seconds"], table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.figure:
        figure(rows, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
