"""`hyle infer`: query a model over gRPC."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
from hyle_deploy.options import add_agent_options, connect_from
from hyle_deploy.query import Answers, ask
from hyle_deploy.samples import read_samples
from hyle_errors import CallerError

from hyle.console import Console

HELP = "Ask a model about every sample of an .npz file; says the accuracy if it has `labels`, and the latency."


class OutputFileError(CallerError):
    """Answers that cannot be written where they were wanted."""


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of samples above 0")
    return value


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument("--data", type=Path, required=True, metavar="E.npz", help="one array an input, samples first")
    parser.add_argument("--batch", type=_count, default=1, metavar="N", help="samples a request (1)")
    parser.add_argument("-o", "--out", type=Path, metavar="ANSWERS.npz", help="write the outputs there")
    add_agent_options(parser)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Ask."""
    with connect_from(args) as client:
        info = client.metadata(args.model)
        samples = read_samples(args.data, info.inputs)

        def report(done: int) -> None:
            if done % 100 < args.batch:
                console.progress(f"asking: {done} of {len(samples)} samples")

        answers = ask(client, args.model, samples, batch=args.batch, report=report)
    if args.out:
        _write(args.out, answers)
    return {
        "agent": args.to,
        "model": args.model,
        "versions": list(info.versions),
        "samples": len(samples),
        "batch": args.batch,
        "requests": answers.requests,
        "accuracy": answers.accuracy,
        "seconds": answers.seconds,
        "requests_per_s": answers.requests / answers.seconds,
        "samples_per_s": len(samples) / answers.seconds,
        "latency": asdict(answers.latency),
        "outputs": {name: list(array.shape) for name, array in answers.outputs.items()},
        "out": str(args.out) if args.out else None,
    }


def _write(path: Path, answers: Answers) -> None:
    try:
        with path.open("wb") as stream:
            np.savez(stream, **answers.outputs)  # type: ignore[arg-type]
    except OSError as error:
        raise OutputFileError(
            f"{path} cannot be written: {error.strerror}.", remedy="Name a file in a folder that you may write to."
        ) from error


def render(result: dict[str, object], console: Console) -> None:
    """Show accuracy, latency and rate."""
    latency = result["latency"]
    assert isinstance(latency, dict)
    if result["accuracy"] is not None:
        console.say(f"accuracy {100 * float(str(result['accuracy'])):.2f} % of {result['samples']} samples")
    quantiles = [f"{1e3 * latency[name]:.2f}" for name in ("p50_s", "p90_s", "p99_s", "max_s")]
    rates = [f"{float(str(result[name])):.0f}" for name in ("requests_per_s", "samples_per_s")]
    columns = ("batch", "p50 ms", "p90 ms", "p99 ms", "max ms", "requests/s", "samples/s")
    console.table("", columns, [(str(result["batch"]), *quantiles, *rates)])
