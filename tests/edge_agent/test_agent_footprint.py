"""What an idle agent may cost: memory, processor time until it is ready and while nobody asks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import grpc
import pytest
from agent_fakes import Operator
from hyle_bundle import generate_key
from test_agent_command import Served
from test_agent_real_bundle import compile_digits

# The issue's limit is 90 MB; a quarter of it above what was measured (72 MB) keeps other libraries' builds in.
RESIDENT_MB = 90.0
# Measured 0.5 s of processor time from the command to readiness; twice that for slower machines.
START_CPU_S = 1.0
# 0.5 % of a core, counted over 4 s in ticks of 10 ms, of which one may be the counter's rounding.
IDLE_S, IDLE_CPU_S = 4.0, 4.0 * 0.005 + 0.01


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def settled_mb(pid: int) -> float:
    """Resident memory once it stops falling; the start gives back what only it needed, a moment after readiness."""
    for _ in range(100):
        if resident_mb(pid) <= RESIDENT_MB:
            break
        time.sleep(0.1)
    return resident_mb(pid)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_an_idle_agent_with_a_model_and_trusted_keys_stays_within_its_footprint(tmp_path: Path) -> None:
    generate_key("me", tmp_path)
    bundle = compile_digits(tmp_path, "1")
    trust = ("--trust", str(tmp_path / "me.pub"))
    with Served(tmp_path, *trust) as served, grpc.insecure_channel(served.address) as channel:
        Operator(channel).deploy(bundle)
    with Served(tmp_path, *trust) as again:
        pid = again.process.pid
        assert cpu_s(pid) <= START_CPU_S
        assert settled_mb(pid) <= RESIDENT_MB
        time.sleep(1.0)
        before = cpu_s(pid)
        time.sleep(IDLE_S)
        assert cpu_s(pid) - before <= IDLE_CPU_S
