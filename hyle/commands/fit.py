"""`hyle fit`: drive an attached black box, fit its digital twin, and say how well it predicts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

from hyle.console import Console

HELP = "Fit the digital twin of an attached black box, and report how well it predicts unseen drive."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("driver", metavar="DEVICE", help="the driver's name, as its entry point says")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="its options; may repeat")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="TWIN.onnx")
    parser.add_argument("--name", help="what models call this matter (default: the file's name)")
    parser.add_argument(
        "--samples", type=int, metavar="N", help="how often it is driven (default: by its values' count)"
    )
    parser.add_argument("--limit", default="10min", metavar="TIME", help="longest time that it is driven (10min)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the drive and of the twin (0)")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Drive, fit and write."""
    import msgspec
    from hyle_agent.drivers import find_driver
    from hyle_compiler.durations import parse_duration
    from hyle_compiler.fitting.fit import FitOptions, fit_device
    from hyle_errors import CallerError
    from hyle_substrates.driver import BlackBox

    if args.seed < 0:
        raise CallerError(f"The seed is {args.seed}.", remedy="Give a seed of 0 or more.")
    limit_s = parse_duration(args.limit)
    options = FitOptions(args.name, args.driver, args.samples, args.seed, limit_s)
    box: Any = find_driver(args.driver)(dict(pair.partition("=")[::2] for pair in args.option))
    try:
        if not isinstance(box, BlackBox):
            raise CallerError(
                f"The device of the driver {args.driver!r} multiplies by matrices; its twin is its profile.",
                remedy="Fit devices of another kind: `hyle targets` lists the profiles.",
            )
        record = fit_device(box, args.output, options, console.progress)
    finally:
        box.close()
    found = {key: value for key, value in msgspec.to_builtins(record).items() if key != "error_std"}
    return {"file": str(args.output), **found}


def render(result: dict[str, object], console: Console) -> None:
    """Print the held-out figures."""
    shown = cast(dict[str, Any], result)
    sizes = f"{shown['parameters']} parameters, {shown['inputs']} inputs, {shown['outputs']} readings"
    print(f"{shown['file']}: {shown['name']}, twin of {shown['identity']} ({sizes})")
    counts = f"{shown['training']} samples, chosen by {shown['validation']}, judged by {shown['held_out']}"
    print(f"{shown['family']}, fitted to {counts} more")
    correlation, error = shown["correlation"], shown["error"]
    rows = [
        ["correlation", f"{correlation['value']:.4f}", f"{correlation['low']:.4f} to {correlation['high']:.4f}"],
        ["relative error", _share(error["value"]), f"{_share(error['low'])} to {_share(error['high'])}"],
        *[[f"relative error, {name} drive", _share(value), ""] for name, value in shown["drives"].items()],
        ["the device's own repeatability", _share(shown["repeatability"]), ""],
    ]
    console.table("on samples that the fit never saw", ["", "", "95 % interval"], rows)


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"
