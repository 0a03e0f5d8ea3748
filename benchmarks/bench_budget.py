"""What an accuracy budget keeps on phase-change memory: share of MACs on physics, and the loss on unseen samples.

Run: python benchmarks/bench_budget.py [--models DIR] [--max-drop 1%] [--instances 10] [--json FILE] [MODEL ...]
`--models` (or HYLE_MODELS) names a folder with mlperf_tiny_ic_resnet8 and mlperf_tiny_kws_dscnn; without it the
repository's own models are measured. The budget is kept at one day on the calibration samples and their labels. The
error of the loss counts the spread of the instances and samples that were lost; changes both ways make it larger.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_accuracy import MODELS, prepared

import hyle
from hyle.console import Console

LARGER = ("mlperf_tiny_ic_resnet8", "mlperf_tiny_kws_dscnn")


def measure(folder: Path, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Compile under the budget and score on samples that the compiler never saw."""
    began = time.monotonic()
    done = hyle.compile(
        folder / "model.onnx",
        target=args.target,
        calib=prepared(folder, "calib", scratch),
        output=scratch / "budget.hyle",
        max_drop=float(args.max_drop.rstrip("%")) / 100,
        instances=args.search_instances,
        progress=lambda text: print(f"\r\x1b[2K{text}", end="", file=sys.stderr),
    )
    seconds = time.monotonic() - began
    with hyle.open(scratch / "budget.hyle") as opened:
        found = opened.evaluate(
            prepared(folder, "eval", scratch), at="1d", instances=args.instances, model=folder / "model.onnx"
        )
    age, samples = found["ages"][0], found["samples"]
    drop = found["float"] - age["mean"]
    error = math.sqrt(age["std"] ** 2 / args.instances + max(drop, 1 / samples) / samples)
    print(file=sys.stderr)
    return {
        "model": folder.name,
        "budget": done.report["budget"],
        "float": found["float"],
        "mean": age["mean"],
        "std": age["std"],
        "drop": drop,
        "error": error,
        "tiles": done.report["tiles"],
        "seconds": seconds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=os.environ.get("HYLE_MODELS"))
    parser.add_argument("--target", default="pcm-generic")
    parser.add_argument("--max-drop", default="1%")
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--search-instances", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    folders = [Path(args.models) / name for name in LARGER] if args.models else list(MODELS)
    kept, rows = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for folder in folders:
            if args.names and folder.name not in args.names:
                continue
            kept.append(measure(folder, args, Path(scratch)))
            rows.append(_row(kept[-1]))
            print(*rows[-1], sep=" | ", flush=True)
            if args.json:
                args.json.write_text(json.dumps(kept, indent=1))
    columns = ["model", "MACs on physics %", "lost on calib", "float", "1 d on eval", "lost", "tiles", "sets", "s"]
    Console().table(
        f"--max-drop {args.max_drop} at one day on {args.target}, {args.instances} instances", columns, rows
    )
    return 0


def _row(one: dict[str, Any]) -> list[object]:
    chosen = one["budget"]["chosen"]
    return [
        one["model"],
        f"{100 * chosen['share_of_macs']:.1f}",
        f"{100 * chosen['drop']:.2f} ± {100 * chosen['standard_error']:.2f}",
        f"{100 * one['float']:.1f}",
        f"{100 * one['mean']:.1f} ± {100 * one['std']:.1f}",
        f"{100 * one['drop']:.2f} ± {100 * one['error']:.2f}",
        one["tiles"],
        f"{chosen['replicas']}{', clipped' if chosen['clipped'] else ''}",
        f"{one['seconds']:.0f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
