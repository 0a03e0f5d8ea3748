"""The soak of benchmarks/bench_soak.py, short: it fails on a wrong answer, a stuck request or memory that grows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "bench_soak.py"


def soak(minutes: float, engine: str) -> None:
    command = [sys.executable, str(SOAK), "--minutes", str(minutes), "--engine", engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * minutes + 240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_minute_at_saturation_leaves_nothing_wrong_stuck_or_grown() -> None:
    soak(1.0, "completion-queue")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["completion-queue", "aio"])
def test_three_minutes_at_saturation_leave_nothing_wrong_stuck_or_grown(engine: str) -> None:
    soak(3.0, engine)
