"""ResNet8 on phase-change memory: what each lever gives on its own, and a device that differs from its twin.

Run: python benchmarks/bench_adapt_resnet8.py --model DIR [--instances 10] [--epochs 5] [--rows NAME ...]
DIR (or HYLE_MODELS/mlperf_tiny_ic_resnet8) holds model.onnx and calib.npz, train.npz and eval.npz.
Prints one line a row as it is measured, and a table at the end; `--json FILE` keeps the figures. Every training ends
after ten minutes, whatever its epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench_accuracy import prepared
from hyle_compiler.adapt import in_silico

import hyle
from hyle.console import Console

DEFAULT = os.environ.get("HYLE_MODELS", "") + "/mlperf_tiny_ic_resnet8"
AGES = "25s,1d,1y"
ROWS: dict[str, dict[str, Any]] = {
    "mapping only, one pair a weight": {"copies": 1, "compensation": "none"},
    "global drift compensation, one pair": {"copies": 1, "compensation": "global"},
    "affine correction, one pair": {"copies": 1},
    "affine and AdaBS, one pair": {"copies": 1, "adapt": "none"},
    "in-silico, one pair": {"copies": 1, "adapt": "in-silico"},
    "in-silico, one pair, clipped at 2 sigma": {"copies": 1, "adapt": "in-silico", "clip": 2.0},
    "PAT, one pair": {"copies": 1, "adapt": "pat"},
    "affine, copies": {},
    "affine and AdaBS, copies": {"adapt": "none"},
    "in-silico, copies": {"adapt": "in-silico"},
    "PAT, copies": {"adapt": "pat"},
}


def measure(name: str, args: argparse.Namespace, scratch: Path) -> list[object]:
    options = dict(ROWS[name])
    in_silico.METHOD = replace(in_silico.METHOD, clip=options.pop("clip", 3.0))
    if options.get("adapt") in ("in-silico", "pat"):
        if find_spec("torch") is None:
            return [name, "skipped: torch is not installed", "", "", ""]
        options |= {"train": args.data["train"], "epochs": args.epochs, "augment": "shift+flip"}
    began = time.monotonic()
    bundle = scratch / "row.hyle"
    done = hyle.compile(
        args.model / "model.onnx",
        target="pcm-generic",
        calib=args.data["calib"],
        output=bundle,
        instances=2,
        progress=lambda text: print(f"\r\x1b[2K{text}", end="", file=sys.stderr),
        **options,
    )
    seconds = time.monotonic() - began
    with hyle.open(bundle) as opened:
        found = opened.evaluate(args.data["eval"], at=AGES, instances=args.instances)
    told = done.report.get("adaptation", {})
    print(file=sys.stderr)
    args.kept[name] = {"seconds": seconds, "exact": found["exact"], "adaptation": told, "ages": found["ages"]}
    scores = [f"{100 * age['mean']:.1f} ± {100 * age['std']:.1f}" for age in found["ages"]]
    return [name, *scores, f"{seconds:.0f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(DEFAULT))
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not (args.model / "model.onnx").is_file():
        print("skipped: HYLE_MODELS names no folder with mlperf_tiny_ic_resnet8", file=sys.stderr)
        return 0
    args.kept = {}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        args.data = {split: prepared(args.model, split, Path(scratch)) for split in ("calib", "train", "eval")}
        for name in args.rows:
            rows.append(measure(name, args, Path(scratch)))
            print(*rows[-1], sep=" | ", flush=True)
            if args.json:
                args.json.write_text(json.dumps(args.kept, indent=1))
    title = f"ResNet8, top-1 in % on eval.npz, pcm-generic, mean ± std of {args.instances} instances"
    Console().table(title, ["lever", "25 s", "1 d", "1 y", "compile s"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
