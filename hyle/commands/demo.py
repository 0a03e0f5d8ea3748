"""`hyle demo`: the whole way on this machine, with an embedded broker and a simulated device."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import Any, cast

from hyle.console import Console

HELP = "Compile MNIST LeNet-5 for phase-change memory, deploy it to an agent here, query it, watch it, roll it back."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    default = Path(str(resources.files("hyle") / "demo_data" / "mnist_lenet5"))
    parser.add_argument(
        "--model", type=Path, default=default, metavar="DIR", help="folder with model.onnx, calib.npz and eval.npz"
    )
    parser.add_argument("--target", default="pcm-hermes", help="substrate (default: pcm-hermes)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="where bundle, key and report go (demo-out)"
    )
    parser.add_argument("--instances", type=int, default=5, help="device instances for the accuracy (default: 5)")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Go the whole way."""
    from hyle.demo import Demo

    return Demo(args.model, args.target, args.out, args.instances, console).run()


def render(result: dict[str, object], console: Console) -> None:
    """Print the table at the end."""
    from hyle_compiler.durations import format_duration

    accuracy = cast(dict[str, Any], result["evaluation"])
    query = cast(dict[str, Any], result["query"])
    rows: list[list[object]] = [["float model, top-1", f"{100 * accuracy['float']:.2f} %"]]
    for age in accuracy["ages"]:
        rows.append(
            [f"on physics after {format_duration(age['age_s'])}", f"{100 * age['mean']:.2f} ± {100 * age['std']:.2f} %"]
        )
    rows += [
        [f"over gRPC, {query['samples']} digits", f"{100 * query['accuracy']:.2f} %"],
        ["requests/s, one client", f"{query['requests_per_s']:.0f}"],
        ["latency p50 / p99", f"{1e3 * query['p50_s']:.2f} / {1e3 * query['p99_s']:.2f} ms"],
        ["second version sent", f"{result['delta_bytes']:,} of {result['bundle_bytes']:,} bytes"],
        ["after rollback serves version", result["rolled_back_to"]],
        ["telemetry messages", f"{result['telemetry_messages']} ({result['broker']})"],
        ["seconds", f"{result['seconds']:.1f}"],
        ["report", result["report"]],
    ]
    console.table("", ["", ""], rows)
