"""Compiling models that do not fit in memory: seconds, megabytes a second beside `cp`, and peak memory, by size.

    python benchmarks/bench_scale.py                                    0.1 and 0.4 billion parameters, for pcm-generic
    python benchmarks/bench_scale.py --sizes 0.1 0.4 1.2 6.7 --folder DIR --target ideal
    HYLE_BENCH_SIZES="0.1 0.4 1.2 6.7" make bench                       the same as part of all figures

Weights are float16, 2 bytes a parameter; every size is made, copied, compiled in a process of its own and deleted
before the next. The disk that a size needs is said first, and a size that does not fit is refused. Peak memory is
`VmHWM` of the compiling process: everything resident, pages of mapped files included. `cp` is timed until the copy is
on disk. The bound is 1 GiB + twice the largest tensor of the model, in the bytes that it has in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpt_models import SIZES, Shape, build_model, write_samples
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile

GIB = 1 << 30


def compile_here(folder: Path, target: str) -> None:
    """Compile the model of a folder in this very process and print what it took, as JSON."""
    profile, text = find_profile(target)
    begun = time.perf_counter()
    stages: list[tuple[str, float]] = []

    def note(words: str) -> None:
        stage = words.split(" ")[0]
        if not stages or stages[-1][0] != stage:
            stages.append((stage, time.perf_counter()))
        print(words, file=sys.stderr, flush=True)

    out = folder / "out.hyle"
    done = compile_model(folder / "model.onnx", folder / "calib.npz", profile, text, out, Options(), None, note)
    ended = time.perf_counter()
    parts: dict[str, float] = {}
    for (stage, start), stop in zip(stages, [*(at for _, at in stages[1:]), ended], strict=True):
        parts[stage] = parts.get(stage, 0.0) + stop - start
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    cpu = time.process_time()
    figures = {"seconds": ended - begun, "cpu_seconds": cpu, "peak": int(status["VmHWM"].split()[0]) << 10}
    print(json.dumps({**figures, "bundle": out.stat().st_size, "tiles": done.report["tiles"], "parts": parts}))


def copied(folder: Path) -> float:
    """Seconds that `cp` takes for the model's data, to the disk."""
    begun = time.perf_counter()
    for path in sorted(folder.glob("*.data")):
        subprocess.run(["cp", "--sparse=never", str(path), str(folder / "copy")], check=True)
        with (folder / "copy").open("rb+") as file:
            os.fsync(file.fileno())
        (folder / "copy").unlink()
    return time.perf_counter() - begun


def measure(shape: Shape, size: str, target: str, where: Path, filled: float) -> None:
    """Make, copy, compile and delete one model; print its line."""
    source, levels = 2 * shape.parameters, shape.parameters * (2 if target == "ideal" else 1)
    table = 2 * (shape.words + shape.positions) * shape.width
    needed = source + max(source, 2 * (levels + table)) + GIB
    free = shutil.disk_usage(where).free
    print(f"{size} billion parameters for {target}: needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
    if free < needed:
        print(f"refused: {where} is too small; free some of it or give --folder")
        return
    with tempfile.TemporaryDirectory(dir=where, prefix="hyle-scale-") as name:
        folder = Path(name)
        build_model(folder, shape, filled=filled)
        write_samples(folder / "calib.npz", shape, 4, 16)
        copy_s = copied(folder)
        command = [sys.executable, __file__, "--compile", name, "--target", target]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    bound = GIB + 2 * 2 * shape.words * shape.width
    parts = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in found["parts"].items() if seconds >= 0.5)
    print(
        f"{size:>4s} B  {found['seconds']:7.1f} s ({found['cpu_seconds']:.0f} s of CPU)  "
        f"{source / found['seconds'] / 1e6:6.1f} MB/s  cp {source / copy_s / 1e6:6.1f} MB/s  "
        f"peak {found['peak'] / GIB:.2f} of {bound / GIB:.2f} GiB  bundle {found['bundle'] / 1e9:.2f} GB  "
        f"{found['tiles']} tiles   {parts}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile GPT-shaped models of several sizes.")
    given = os.environ.get("HYLE_BENCH_SIZES", "0.1 0.4").split()
    parser.add_argument("--sizes", nargs="+", default=given, choices=sorted(SIZES), metavar="S", help="billions")
    parser.add_argument("--target", default="pcm-generic")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="a disk with room")
    parser.add_argument("--filled", type=float, default=1.0, help="share of the weights that are not holes")
    parser.add_argument("--compile", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compile:
        compile_here(args.compile, args.target)
        return
    for size in args.sizes:
        measure(SIZES[size], size, args.target, args.folder, args.filled)


if __name__ == "__main__":
    main()
