"""Seconds to compile each sample model, of the clock and of all cores, and where they go.

Run: python benchmarks/bench_compile.py
HYLE_MODELS names a folder of further models, each with model.onnx and calib.npz.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from bench_accuracy import prepared
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile

ROOT = Path(__file__).resolve().parents[1]
MODELS = [ROOT / "hyle" / "demo_data" / "mnist_lenet5", *sorted((ROOT / "tests" / "data").glob("digits_*"))]
TARGETS = ("ideal", "pcm-generic")


def stages(model: Path, target: str, out: Path) -> dict[str, float]:
    """Seconds of each stage, by the compiler's own words for it."""
    profile, text = find_profile(target)
    marks: list[tuple[str, float]] = []

    def note(stage: str) -> None:
        marks.append((stage.split(":")[0].split(" on ")[0], time.perf_counter()))

    calib = prepared(model, "calib", out.parent)
    compile_model(model / "model.onnx", calib, profile, text, out, Options(), None, note)
    ends = [*(at for _, at in marks[1:]), time.perf_counter()]
    found: dict[str, float] = {}
    for (stage, begun), end in zip(marks, ends, strict=True):
        found[stage] = found.get(stage, 0.0) + end - begun
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stages(MODELS[-1], "ideal", Path(folder) / "warm.hyle")
        further = sorted(Path(os.environ["HYLE_MODELS"]).glob("mlperf_*")) if "HYLE_MODELS" in os.environ else []
        for model in [*MODELS, *further]:
            for target in TARGETS:
                begun = time.process_time()
                found = stages(model, target, Path(folder) / "m.hyle")
                spent = time.process_time() - begun
                parts = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in found.items())
                print(f"{model.name:24s} {target:12s} {sum(found.values()):6.2f} s ({spent:.2f} s of CPU)   {parts}")


if __name__ == "__main__":
    main()
