"""Accuracy on phase-change memory over time: every sample model, as compiled by default and with one pair a weight.

Run: python benchmarks/bench_accuracy.py [--models DIR] [--instances N] [MODEL ...]
`--models` (or HYLE_MODELS) names a folder of further models, each with model.onnx, calib.npz and eval.npz.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

import hyle
from hyle.console import Console

ROOT = Path(__file__).resolve().parents[1]
MODELS = [*sorted((ROOT / "tests" / "data").glob("digits_*")), ROOT / "hyle" / "demo_data" / "mnist_lenet5"]
AGES = "25s,1d,1y"


def prepared(folder: Path, split: str, scratch: Path) -> Path:
    """The folder's samples in hyle's form."""
    given = folder / f"{split}.npz"
    with np.load(given) as file:
        if "x" not in file.files:
            return given
        name = ort.InferenceSession(str(folder / "model.onnx")).get_inputs()[0].name
        x = ((file["x"].astype(np.float32) - file["x_offset"]) * file["x_scale"]).astype(np.float32)
        np.savez(scratch / f"{folder.name}.{split}.npz", **{name: x, "labels": file["y"]})
    return scratch / f"{folder.name}.{split}.npz"


def measure(folder: Path, copies: int | None, instances: int, scratch: Path) -> list[object]:
    bundle = scratch / f"{folder.name}-{copies}.hyle"
    done = hyle.compile(
        folder / "model.onnx",
        target="pcm-generic",
        calib=prepared(folder, "calib", scratch),
        output=bundle,
        copies=copies,
        instances=2,
    )
    with hyle.open(bundle) as opened:
        data = prepared(folder, "eval", scratch)
        found = opened.evaluate(data, at=AGES, instances=instances, model=folder / "model.onnx")
    scores = [f"{100 * age['mean']:.1f} ± {100 * age['std']:.1f}" for age in found["ages"]]
    tiles = done.report["tiles"]
    return [folder.name, "default" if copies is None else copies, tiles, f"{100 * found['float']:.1f}", *scores]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=os.environ.get("HYLE_MODELS"))
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    folders = list(MODELS)
    if args.models:
        known = {folder.name for folder in folders}
        folders += [
            path.parent for path in sorted(Path(args.models).glob("*/model.onnx")) if path.parent.name not in known
        ]
    else:
        print("Only the repository's own models: HYLE_MODELS names no folder with others.", file=sys.stderr)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for folder in folders:
            if args.names and folder.name not in args.names:
                continue
            for copies in (None, 1):
                rows.append(measure(folder, copies, args.instances, Path(scratch)))
                print(*rows[-1], file=sys.stderr)
    title = f"top-1 in % on eval.npz, pcm-generic, affine correction, mean ± std of {args.instances} instances"
    Console().table(title, ["model", "copies", "tiles", "float", "25 s", "1 d", "1 y"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
