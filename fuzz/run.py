"""Fuzz what reads bytes from outside with atheris, each target for a time, and keep a minimised corpus.

The corpus of a target is `fuzz/corpus/TARGET.zip`: inputs that libFuzzer found to reach code that no other of them
reaches, merged anew at the end of every run. A crash or a hang ends with 1 and leaves its input in results/fuzz/.

Run: python fuzz/run.py [TARGET ...] [--seconds 600]        (`make fuzz` runs all of them; needs the extra `fuzz`)
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from corpus import pack, unpack
from seeds import seeds
from targets import TARGETS

HERE = Path(__file__).parent
FOUND = HERE.parent / "results" / "fuzz"
# A hang is an input that takes longer than this; memory is bounded as well.
LIMITS = ("-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=512")


def program(target: str, folder: Path) -> Path:
    """Write the command that is libFuzzer on one target; a merge starts it again by its path."""
    path = folder / "fuzzer"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "fuzzer.py"}" "$0" {target} "$@"\n')
    path.chmod(0o755)
    return path


def words(seed: bytes, path: Path) -> Path:
    """Write libFuzzer's dictionary: the words that a sound input is made of."""
    found = sorted(set(re.findall(rb"[A-Za-z][A-Za-z0-9_./-]{2,40}", seed)))[:200]
    path.write_text("".join(f'"{word.decode()}"\n' for word in found))
    return path


def run(command: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run libFuzzer within the limits."""
    return subprocess.run([str(command), *LIMITS, *options], stderr=subprocess.PIPE, text=True, check=False)


def fuzz(target: str, seconds: int, folder: Path) -> int:
    """Fuzz one target from its kept corpus and its seed, merge what was found; return libFuzzer's exit status."""
    working, least = folder / "working", folder / "least"
    working.mkdir(parents=True)
    least.mkdir()
    unpack(target, working)
    seed = seeds(folder)[target]
    (working / "seed").write_bytes(seed)
    FOUND.mkdir(parents=True, exist_ok=True)
    prefix, command = f"-artifact_prefix={FOUND / target}-", program(target, folder)
    dictionary = f"-dict={words(seed, folder / 'words')}"
    done = run(command, f"-max_total_time={seconds}", "-print_final_stats=1", prefix, dictionary, str(working))
    tail = done.stderr.splitlines()[-400:]
    runs = next((line.split()[-1] for line in tail if "number_of_executed_units" in line), "?")
    if done.returncode == 0:
        done = run(command, "-merge=1", prefix, str(least), str(working))
        pack(target, least)
    print(f"{target}: {runs} inputs in {seconds} s, corpus of {len(list(least.iterdir()))}, exit {done.returncode}")
    if done.returncode:
        print("\n".join(tail[-60:]))
    return done.returncode


def main() -> int:
    """Fuzz the named targets, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (600)")
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    failed = 0
    for target in chosen.targets or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            failed += bool(fuzz(target, chosen.seconds, Path(folder)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
