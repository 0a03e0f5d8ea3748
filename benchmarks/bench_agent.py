"""What an idle agent weighs, telemetry on and a model installed: seconds until it is ready, memory, idle CPU.

Run: python benchmarks/bench_agent.py [--runs N]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hyle_deploy.broker import start_broker

import hyle
from hyle.console import Console

ROOT = Path(__file__).resolve().parents[1]
MODELS = {
    "digits_mlp": ROOT / "tests" / "data" / "digits_mlp",
    "mnist_lenet5": ROOT / "hyle" / "demo_data" / "mnist_lenet5",
}
READY_S = 30.0
IDLE_S = 5.0


def start(store: Path, broker: str, ready: Path) -> tuple[subprocess.Popen[bytes], str, float]:
    ready.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "hyle",
        "agent",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--store",
        str(store),
        "--insecure",
    ]
    command += ["--driver", "twin", "--profile", "pcm-hermes", "--broker", broker, "--ready-file", str(ready)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not ready.is_file():
        if process.poll() is not None or time.perf_counter() - begin > READY_S:
            process.kill()
            raise SystemExit("The agent did not become ready.")
        time.sleep(0.001)
    return process, ready.read_text(), time.perf_counter() - begin


def memory_mb(process: subprocess.Popen[bytes], field: str = "VmRSS") -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def measure(name: str, folder: Path, scratch: Path, broker: str, runs: int) -> list[object]:
    bundle, store, ready = scratch / f"{name}.hyle", scratch / name, scratch / "ready"
    data = (folder / "model.onnx", folder / "calib.npz")
    hyle.compile(data[0], target="pcm-hermes", calib=data[1], output=bundle, instances=2)
    process, address, _ = start(store, broker, ready)
    with hyle.connect(address) as client:
        client.deploy(bundle)
    stop(process)
    seconds, resident, idle = [], [], []
    for _ in range(runs):
        process, address, taken = start(store, broker, ready)
        time.sleep(1.0)
        before = cpu_s(process)
        time.sleep(IDLE_S)
        idle.append(100 * (cpu_s(process) - before) / IDLE_S)
        resident.append(memory_mb(process))
        seconds.append(taken)
        stop(process)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    median = statistics.median
    return [name, f"{median(seconds):.2f}", spread, f"{median(resident):.0f}", f"{median(idle):.1f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        with start_broker(scratch) as broker:
            address = f"{broker.host}:{broker.port}"
            rows = [measure(name, path, scratch, address, args.runs) for name, path in MODELS.items()]
    Console().table(
        f"idle agent on the pcm-hermes twin, {args.runs} starts",
        ["model", "ready s", "spread", "RSS MB", "idle CPU %"],
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
