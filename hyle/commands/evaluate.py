"""`hyle evaluate`: accuracy on the twin, over time and device instances."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, cast

from hyle.console import Console

HELP = "Measure a bundle's accuracy on the twin, over time and device instances."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundle", type=Path, metavar="OUT.hyle")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="E.npz", help="samples and, if there are any, labels"
    )
    parser.add_argument("--at", default="25s,1h,1d,1y", help="ages after programming (default: 25s,1h,1d,1y)")
    parser.add_argument("--instances", type=int, default=10, help="device instances (default: 10)")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first instance (default: 1000)")
    parser.add_argument("--model", type=Path, metavar="MODEL.onnx", help="the float model, to print its score beside")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Evaluate."""
    from hyle_bundle import open_bundle
    from hyle_compiler.durations import parse_durations
    from hyle_compiler.evaluate import evaluate_bundle

    ages = parse_durations(args.at)
    with tempfile.TemporaryDirectory(prefix="hyle-") as folder, open_bundle(args.bundle) as bundle:
        bundle.extract(Path(folder))
        evaluation = evaluate_bundle(
            Path(folder),
            bundle.manifest,
            args.data,
            ages_s=ages,
            seeds=range(args.seed, args.seed + args.instances),
            float_model=args.model,
            progress=console.progress,
        )
        return {"bundle": str(args.bundle), "target": bundle.manifest.target, **evaluation}


def render(result: dict[str, object], console: Console) -> None:
    """Print one row an age."""
    from hyle_compiler.durations import format_duration

    rows = []
    if result["float"] is not None:
        rows.append(["float model", f"{100 * cast(float, result['float']):.2f}", ""])
    rows.append(["exact matter", f"{100 * cast(float, result['exact']):.2f}", ""])
    for age in cast(list[dict[str, Any]], result["ages"]):
        rows.append([f"after {format_duration(age['age_s'])}", f"{100 * age['mean']:.2f}", f"{100 * age['std']:.2f}"])
    count = len(cast(list[dict[str, Any]], result["ages"])[0]["scores"])
    title = f"{result['metric']} on {result['samples']} samples, {result['target']}, {count} instances"
    console.table(title, ["", "%", "std"], rows)
