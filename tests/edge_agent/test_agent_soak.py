"""The soak of benchmarks/bench_soak.py, short: it fails on a wrong answer, a stuck request, or anything that grows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "bench_soak.py"
MINUTES = float(os.environ.get("HYLE_SOAK_MINUTES", "3"))


def soak(engine: str, tell: Callable[[str, object], None]) -> None:
    command = [sys.executable, str(SOAK), "--minutes", str(MINUTES), "--engine", engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES + 300, check=False)
    tell("told", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_minutes_at_saturation_leave_nothing_wrong_stuck_or_grown(
    record_property: Callable[[str, object], None],
) -> None:
    soak("completion-queue", record_property)


@pytest.mark.long
def test_minutes_at_saturation_leave_nothing_wrong_stuck_or_grown_on_the_other_engine_either(
    record_property: Callable[[str, object], None],
) -> None:
    soak("aio", record_property)
