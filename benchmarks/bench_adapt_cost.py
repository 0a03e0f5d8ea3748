"""What an in-silico epoch costs over a plain torch float epoch of the same model, interleaved in one run.

Run: python benchmarks/bench_adapt_cost.py [--model DIR] [--batch 100] [--rounds 9] [--device cpu]
Both take the same batches, the same objective and the same optimiser; the float one is torch's own graph of the model.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_accuracy import ROOT, prepared
from hyle_compiler.adapt.method import Budget, Task
from hyle_compiler.adapting import calibrated_layers, find_goal
from hyle_compiler.inputs import input_specs
from hyle_compiler.partition import partition
from hyle_compiler.read import read_model
from hyle_compiler.samples import load_samples
from hyle_compiler.simplify import simplify
from hyle_substrates.profile import load_profile

from hyle.console import Console

RESNET8 = Path(os.environ.get("HYLE_MODELS", "")) / "mlperf_tiny_ic_resnet8"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    given = RESNET8 if (RESNET8 / "model.onnx").is_file() else ROOT / "tests" / "data" / "digits_cnn"
    parser.add_argument("--model", type=Path, default=given)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("skipped: torch is not installed", file=sys.stderr)
        return 0
    from hyle_compiler.adapt.matter import Drawn
    from hyle_compiler.adapt.pace import Pace
    from hyle_compiler.adapt.training import Descent, Loop, objective

    profile = load_profile("pcm-generic")
    model = simplify(read_model(args.model / "model.onnx"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        samples = load_samples(prepared(args.model, "calib", folder), input_specs(model))
        layers = calibrated_layers(folder, model, partition(model).physical, samples, profile, None, 0)
        goal = find_goal(folder, model, samples)
        loop = Loop(Task(model, layers, samples, goal, profile, "affine", 0, Budget(), folder), 1)
    batch = loop.batch(np.arange(min(args.batch, len(samples))))
    matter = Drawn(profile, "affine", loop.generator)
    seconds: dict[str, list[float]] = {"torch float": [], "in-silico, full noise": []}
    descent = Descent(loop.view, 1e-3, Pace(10**6, 1e6), 3.0, ranges=True)
    for _ in range(args.rounds + 2):
        for name, held in zip(seconds, (None, matter), strict=True):
            loop.view.put(held)
            matter.renew()
            began = time.perf_counter()
            objective(loop.view.logits(*batch.inputs), batch).backward()
            descent.apply()
            seconds[name].append(time.perf_counter() - began)
    median = {name: float(np.median(values[2:])) for name, values in seconds.items()}
    plain = median["torch float"]
    rows = [[n, f"{1e3 * s:.1f}", f"{s / plain:.2f}"] for n, s in median.items()]
    title = f"{args.model.name}: one step of {len(batch.inputs[0])} samples, {torch.get_num_threads()} threads, medians"
    Console().table(title, ["", "ms", "ratio"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
