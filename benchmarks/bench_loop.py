"""Hardware in the loop over the network: what it costs beside the same in one process, and what it wins.

Run: python benchmarks/bench_loop.py [--model DIR] [--target T] [--mismatch 0.3] [--copies 1] [--epochs 8] [--seed 0]
     [--writes 5] [--seconds 3] [--skip-training] [--json FILE]
The device is a twin in a process of its own whose gains of weights, rows and columns differ from the sheet for good by
the mismatch; an agent has it by the remote driver, and the compiler by the agent's lease: two hops over gRPC, loopback.
Cost: vectors a second through one layer-sized tile, in batches, (a) the twin in this process, (b) an agent that has the
twin itself, (c) the agent with the device in another process. Win: the plain bundle, one calibrated on the device, and
one adapted on it by physics-aware training, each installed on the agent `--writes` times and asked for eval.npz.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/drivers"))

from hyle_deploy.client import connect as connect_agent  # noqa: E402
from hyle_errors import HyleError  # noqa: E402
from hyle_protos.inference import inference_pb2, inference_pb2_grpc  # noqa: E402
from hyle_substrates.driver import Driver  # noqa: E402
from hyle_substrates.leased import lease  # noqa: E402
from hyle_substrates.profile import find_profile  # noqa: E402
from hyle_substrates.twin import TwinDriver  # noqa: E402
from rigs import mismatched_twin  # noqa: E402
from served import Served  # noqa: E402

from hyle import compile as compile_bundle  # noqa: E402
from hyle.console import Console  # noqa: E402

BATCHES = (1, 100, 1000)
ROWS, COLS = 64, 64


def speed(driver: Driver, batch: int, seconds: float) -> tuple[float, float]:
    """Vectors a second through one tile, and the median time of a call in seconds."""
    codes = np.random.default_rng(0).integers(-40, 41, (batch, ROWS)).astype(np.int32)
    driver.program(0, np.random.default_rng(1).integers(-127, 128, (ROWS, COLS)).astype(np.int32))
    driver.apply([0], codes)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        driver.apply([0], codes)
        times.append(time.perf_counter() - began)
    return batch * len(times) / sum(times), float(np.median(times))


def cost(target: str, far: str, near: str, seconds: float) -> list[dict[str, Any]]:
    """One row a batch size: vectors a second of the three ways, and what a call takes longer over the network."""
    profile = find_profile(target)[0]
    rows = []
    for batch in BATCHES:
        here = speed(TwinDriver(profile, 7), batch, seconds)
        found = [here]
        for address in (near, far):
            with lease({"address": address}, holder="bench_loop", purpose="speed", tiles=1) as driver:
                found.append(speed(driver, batch, seconds))
        names = ("in_process", "agent", "agent_and_device")
        row: dict[str, Any] = {"batch": batch}
        for name, (rate, median) in zip(names, found, strict=True):
            row |= {f"{name}_vectors_s": rate, f"{name}_call_ms": 1e3 * median}
        rows.append(row)
    return rows


def judged(address: str, bundle: Path, data: Path, writes: int) -> dict[str, float]:
    """Accuracy and cross-entropy of a bundle on the agent's device, over so many writes of it."""
    with np.load(data) as file:
        arrays = {name: file[name] for name in file if name != "labels"}
        labels = file["labels"].reshape(-1)
    scores, losses = [], []
    with connect_agent(address) as client, grpc.insecure_channel(address) as channel:
        client.deploy(bundle)
        for _ in range(writes):
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name="bench"))
            outputs = client.infer("bench", arrays)
            logits = np.asarray(next(iter(outputs.values())), dtype=np.float64).reshape(len(labels), -1)
            logits -= logits.max(axis=1, keepdims=True)
            logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            scores.append(float(np.mean(logits.argmax(axis=1) == labels)))
            losses.append(float(-np.mean(logp[np.arange(len(labels)), labels])))
    spread = float(np.std(scores, ddof=1)) if writes > 1 else 0.0
    return {"accuracy": float(np.mean(scores)), "std": spread, "loss": float(np.mean(losses))}


def win(args: argparse.Namespace, address: str, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Plain, calibrated on the device, adapted on it."""
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "calibrated on the device": {"device": {"address": address}},
        "in-silico": {"adapt": "in-silico"},
        "pat on the device": {"device": {"address": address}, "adapt": "pat"},
    }
    found = {}
    for name, options in ways.items():
        tell(f"compiling: {name}")
        out, began = folder / f"{name.replace(' ', '-')}.hyle", time.perf_counter()
        done = compile_bundle(
            args.model / "model.onnx",
            target=args.target,
            calib=args.model / "calib.npz",
            output=out,
            name="bench",
            counter=len(found) + 1,
            seed=args.seed,
            copies=args.copies,
            epochs=args.epochs,
            instances=2,
            progress=tell,
            **options,
        )
        found[name] = {"seconds": time.perf_counter() - began, "device": done.report.get("device")}
        try:
            found[name] |= judged(address, out, args.model / "eval.npz", args.writes)
        except HyleError as error:
            found[name] |= {"refused": str(error)}
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "tests/data/digits_mlp")
    parser.add_argument("--target", default="pcm-hermes")
    parser.add_argument("--mismatch", type=float, default=0.3)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--skip-training", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def show(document: dict[str, Any], console: Console) -> None:
    rows: list[Sequence[object]] = [
        (
            row["batch"],
            *(f"{row[f'{way}_vectors_s']:,.0f}" for way in ("in_process", "agent", "agent_and_device")),
            *(f"{row[f'{way}_call_ms']:.2f}" for way in ("in_process", "agent", "agent_and_device")),
        )
        for row in document["cost"]
    ]
    heads = ("batch", "vectors/s here", "by an agent", "and a device", "ms a call here", "by an agent", "and a device")
    console.table("one tile of 64 x 64", heads, rows)
    rows = [
        (
            name,
            f"{100 * way['accuracy']:.2f} ± {100 * way['std']:.2f}" if "accuracy" in way else "refused",
            f"{way['loss']:.4f}" if "loss" in way else "",
            f"{way['seconds']:.1f}",
            f"{way['device']['vectors']:,}" if way["device"] else "",
        )
        for name, way in document.get("win", {}).items()
    ]
    if rows:
        console.table("on the mismatched device", ("", "accuracy %", "loss", "compile s", "vectors driven"), rows)


def main() -> int:
    args = parse()
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hyle-loop-")))
        rig = mismatched_twin(args.target, 1000 + args.seed, args.mismatch)
        stack.callback(rig.unplug)
        for name in ("far", "near"):
            (folder / name).mkdir()
        remote = ["--driver", "remote", "--option", f"address=127.0.0.1:{rig.port}"]
        far = stack.enter_context(Served(folder / "far", "--insecure", *remote))
        near = stack.enter_context(Served(folder / "near", "--insecure", "--profile", args.target, "--seed", "7"))
        document: dict[str, Any] = {"mismatch": args.mismatch, "target": args.target, "copies": args.copies}
        console.progress("measuring speed")
        document["cost"] = cost(args.target, far.address, near.address, args.seconds)
        if not args.skip_training:
            document["win"] = win(args, far.address, folder, console.progress)
        console.done()
    show(document, console)
    if args.json:
        args.json.write_text(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
