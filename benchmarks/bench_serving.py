"""Requests a second, latency and processor time a request of the agent beside Triton and MLServer, interleaved.

Batch 1, raw contents, full validation. Needs `h2load` (Debian's nghttp2-client); peers/README.md says how to get the
peers.

Run: python benchmarks/bench_serving.py [--rounds N] [--requests N] [--model mlp|mnist_lenet5] [--copies N]
     [--tls yes|no]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path

from serving_servers import (
    PEERS,
    Certificates,
    Model,
    Server,
    lenet,
    mlp,
    request,
    start_agent,
    start_mlserver,
    start_triton,
)

from hyle.console import Console

METHOD = "inference.GRPCInferenceService/ModelInfer"
CALLS = (1, 8, 32)


def cpu_s(root: int) -> float:
    """Processor time of a process and those it started."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        stats[int(path.parent.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    tree = {root}
    for _ in range(4):
        tree |= {pid for pid, (parent, _) in stats.items() if parent in tree}
    return sum(stats[pid][1] for pid in tree if pid in stats) / os.sysconf("SC_CLK_TCK")


def h2load(server: Server, body: Path, calls: int, total: int, log: Path) -> dict[str, float]:
    log.unlink(missing_ok=True)
    scheme = "https" if server.tls else "http"
    command = [
        "h2load",
        "-n",
        str(total),
        "-c",
        "1",
        "-m",
        str(calls),
        "-t",
        "1",
        "-d",
        str(body),
        "--log-file",
        str(log),
    ]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"{scheme}://{server.address}/{METHOD}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    if done is None or f"{total} succeeded" not in said:
        raise SystemExit(f"h2load against {server.name}: {said}")
    micros = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    return {
        "per_s": float(done[1]),
        "p50_ms": micros[len(micros) // 2] / 1e3,
        "p99_ms": micros[len(micros) * 99 // 100] / 1e3,
    }


def client(server: Server, message: Path, calls: int, total: int) -> dict[str, float]:
    command = [sys.executable, str(PEERS / "load_client.py"), server.address, str(message), str(calls), str(total)]
    command += [str(server.tls.authority)] if server.tls else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure(servers: list[Server], model: Model, folder: Path, rounds: int, total: int) -> list[list[object]]:
    message, body, log = folder / "message", folder / "body", folder / "h2load.log"
    message.write_bytes(request(model).SerializeToString())
    raw = message.read_bytes()
    body.write_bytes(b"\0" + struct.pack(">I", len(raw)) + raw)
    found: dict[tuple[str, int, str], list[dict[str, float]]] = defaultdict(list)
    for turn in range(rounds + 1):
        for calls in CALLS:
            count = total * min(calls, 4)
            for server in servers:
                before = cpu_s(server.process.pid)
                one = h2load(server, body, calls, count, log)
                one["cpu_us"] = (cpu_s(server.process.pid) - before) / count * 1e6
                other = client(server, message, calls, count // 2)
                if turn:  # the first round warms up
                    found[server.name, calls, "h2load"].append(one)
                    found[server.name, calls, "client"].append(other)
    rows: list[list[object]] = []
    for (name, calls, source), runs in sorted(found.items(), key=lambda item: (item[0][2], item[0][1])):
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        rows.append(
            [
                source,
                calls,
                name,
                f"{middle['per_s']:.0f}",
                f"{middle['p50_ms']:.2f}",
                f"{middle['p99_ms']:.2f}",
                f"{middle['cpu_us']:.0f}" if "cpu_us" in middle else "",
            ]
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--model", choices=["mlp", "mnist_lenet5", "both"], default="both")
    parser.add_argument(
        "--copies", type=int, help="LeNet-5's devices a weight; by default as many as there is room for"
    )
    parser.add_argument("--tls", choices=["no", "yes", "both"], default="both")
    args = parser.parse_args()
    if shutil.which("h2load") is None:
        print("bench_serving: left out, h2load is not installed (Debian: nghttp2-client)", file=sys.stderr)
        return 0
    for name, make in {"mlp": mlp, "mnist_lenet5": partial(lenet, copies=args.copies)}.items():
        for secure in (False, True):
            if args.model in {name, "both"} and args.tls in {"yes" if secure else "no", "both"}:
                with tempfile.TemporaryDirectory() as folder:
                    tls = Certificates.make(Path(folder) / "identity") if secure else None
                    compare(make(Path(folder)), Path(folder), args.rounds, args.requests, tls)
    return 0


def compare(model: Model, folder: Path, rounds: int, total: int, tls: Certificates | None) -> None:
    servers: list[Server] = []
    try:
        servers.append(start_agent(model, folder, "completion-queue", "hyle", tls))
        servers.append(start_agent(model, folder, "aio", "hyle (aio engine)", tls))
        for start in (start_triton, start_mlserver, partial(start_mlserver, lean=True)):
            made = start(model, folder, tls)
            if isinstance(made, str):
                print(f"left out: {made}", file=sys.stderr)
            else:
                servers.append(made)
        rows = measure(servers, model, folder, rounds, total)
    finally:
        for server in servers:
            server.stop()
    title = f"{model.name}{', TLS' if tls else ''}, batch 1, medians of {rounds} interleaved rounds"
    Console().table(title, ["load", "in flight", "server", "requests/s", "p50 ms", "p99 ms", "CPU µs/request"], rows)


if __name__ == "__main__":
    sys.exit(main())
