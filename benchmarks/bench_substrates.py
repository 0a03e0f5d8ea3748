"""Accuracy of small models on every matrix profile, over age and instances.

Run: python benchmarks/bench_substrates.py [--instances N] [--docs] [TARGET ...]
`--docs` writes the table into docs/substrates.md, between its markers.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from hyle_substrates.profile import profile_names

import hyle

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "substrates.md"
MODELS = [ROOT / "tests" / "data" / "digits_mlp", ROOT / "hyle" / "demo_data" / "mnist_lenet5"]
AGES = "25s,1d,2d"
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"


def first_samples(path: Path, count: int, scratch: Path) -> Path:
    """The first samples of a file, as a file."""
    with np.load(path) as file:
        np.savez(scratch / f"{path.parent.name}.{count}.npz", **{name: file[name][:count] for name in file.files})
    return scratch / f"{path.parent.name}.{count}.npz"


def measure(folder: Path, target: str, instances: int, samples: int, scratch: Path) -> list[str]:
    bundle = scratch / f"{folder.name}-{target}.hyle"
    done = hyle.compile(folder / "model.onnx", target=target, calib=folder / "calib.npz", output=bundle, instances=1)
    data = first_samples(folder / "eval.npz", samples, scratch)
    with hyle.open(bundle) as opened:
        found = opened.evaluate(data, at=AGES, instances=instances, model=folder / "model.onnx")
    scores = [f"{100 * age['mean']:.1f} ± {100 * age['std']:.1f}" for age in found["ages"]]
    exact = f"{100 * found['exact']:.1f}"
    return [f"`{target}`", folder.name, str(done.report["tiles"]), f"{100 * found['float']:.1f}", exact, *scores]


def table(rows: list[list[str]]) -> str:
    head = ["target", "model", "tiles", "float", "exact matter", "25 s", "1 day", "2 days"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("targets", nargs="*")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for target in args.targets or profile_names():
            for folder in MODELS:
                rows.append(measure(folder, target, args.instances, args.samples, Path(scratch)))
                print(*rows[-1], file=sys.stderr, flush=True)
    command = "python benchmarks/bench_substrates.py --docs"
    if (args.instances, args.samples) != (3, 500):
        command += f" --instances {args.instances} --samples {args.samples}"
    note = (
        f"Top-1 in %, the first {args.samples} evaluation samples at most, mean ± standard deviation of "
        f"{args.instances} instances, corrected as each profile says; 'exact matter' holds its targets and has no "
        f"noise, so that it shows the converters alone. "
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with `{command}`, {os.cpu_count()} cores."
    )
    text = f"{table(rows)}\n\n{note}"
    print(text)
    if args.docs:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
