"""`hyle compile`: ONNX in, bundle out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hyle.console import Console

if TYPE_CHECKING:
    from hyle_substrates.profile import Profile

HELP = "Compile an ONNX model for a substrate and write a deployment bundle."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="ONNX model, or a .pt2 of torch.export.save")
    parser.add_argument(
        "--target",
        required=True,
        metavar="T",
        help="substrate (see `hyle targets`), profile .toml, or twin .onnx of a black box",
    )
    parser.add_argument(
        "--calib", required=True, type=Path, metavar="C.npz", help="samples: one array an input, named like it"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT.hyle")
    parser.add_argument("--name", help="name of the model (default: the file's)")
    parser.add_argument("--version", default="1", help="version of the model, for people (default: 1)")
    parser.add_argument(
        "--counter", type=int, default=1, help="monotonic counter; an agent refuses a lower one than it has"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything drawn (default: 0)")
    parser.add_argument("--compensation", choices=["none", "global", "column", "affine"], help="default: the target's")
    parser.add_argument(
        "--copies",
        default="auto",
        metavar="N|auto",
        help="devices a weight: how often each matrix is written into its tiles",
    )
    parser.add_argument("--instances", type=int, default=6, help="device instances to verify on (default: 6)")
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N", help="spread the model over N devices of the target (default: 1)"
    )
    parser.add_argument(
        "--black-box",
        action="append",
        default=[],
        metavar="NODE=TWIN.onnx",
        help="run this node (or all of this operator) on the black box that `hyle fit` made a twin of; may repeat",
    )
    parser.add_argument(
        "--stream",
        choices=["auto", "always", "never"],
        default="auto",
        help="compile layer by layer, in bounded memory and on the output's disk (default: above 96 MiB of weights)",
    )
    parser.add_argument("--key", type=Path, metavar="K", help="private key that signs the bundle (see `hyle keys`)")
    _configure_training(parser)
    _configure_device(parser)
    _configure_budget(parser)


def _configure_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning to live in matter")
    group.add_argument(
        "--adapt", metavar="METHOD", help="let the model learn to live in its matter (see `hyle methods`), or auto"
    )
    group.add_argument(
        "--train", type=Path, metavar="T.npz", help="what it learns from (default: the samples of --calib)"
    )
    group.add_argument("--epochs", type=int, metavar="N", help="how long it learns (default: as the method says)")
    group.add_argument("--augment", choices=["none", "shift", "shift+flip"], default="none", help="how images may vary")
    group.add_argument("--checkpoint", type=Path, metavar="P.npz", help="where the best weights so far are kept")


def _configure_device(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on an attached device")
    group.add_argument(
        "--device",
        metavar="HOST:PORT",
        help="calibrate, and adapt, on the device of the agent there; it lends it and serves again afterwards",
    )
    group.add_argument("--ca", type=Path, metavar="PEM", help="authority that signed that agent's certificate")
    group.add_argument("--cert", type=Path, metavar="PEM", help="your certificate there, with the role 'operate'")
    group.add_argument("--cert-key", type=Path, metavar="PEM", help="its private key")


def _configure_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("an accuracy to keep")
    group.add_argument(
        "--max-drop", metavar="P%", help="accuracy that may be lost, such as 1%%: what costs more stays digital"
    )
    group.add_argument(
        "--replicas", type=int, default=4, help="most sets of tiles a layer to keep --max-drop (default: 4)"
    )
    group.add_argument("--at", default="1d", help="ages at which --max-drop is kept (default: 1d)")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Compile."""
    from hyle_bundle import load_private_key
    from hyle_compiler.durations import parse_durations
    from hyle_compiler.pipeline import Options, compile_model

    profile, text, own = _target(args.target)
    options = Options(
        name=args.name,
        version=args.version,
        counter=args.counter,
        seed=args.seed,
        compensation=args.compensation,
        copies=_copies(args.copies),
        instances=args.instances,
        max_drop=_fraction(args.max_drop),
        most_replicas=max(1, args.replicas),
        budget_ages_s=tuple(parse_durations(args.at)),
        devices=args.devices,
        adapt=args.adapt,
        train=args.train,
        epochs=args.epochs,
        augment=args.augment,
        checkpoint=args.checkpoint,
        device=_device(args),
        black_boxes={**own, **_black_boxes(args.black_box)},
        stream={"always": True, "never": False}.get(args.stream),
    )
    key = load_private_key(args.key) if args.key else None
    done = compile_model(args.model, args.calib, profile, text, args.output, options, key, console.progress)
    return {
        "bundle": str(done.path),
        "digest": done.digest,
        "name": done.manifest.name,
        "version": done.manifest.version,
        "signed": key is not None,
        "budget": done.report.get("budget"),
        "adaptation": done.report.get("adaptation"),
        "device": done.report.get("device"),
        "black_boxes": done.report.get("black_boxes", []),
        **{
            k: done.report[k]
            for k in (
                "target",
                "tiles",
                "cost",
                "macs_on_physics",
                "latency_s",
                "energy_j",
                "calibration",
                "digital",
                "warnings",
            )
        },
    }


def _target(name: str) -> tuple[Profile, bytes, dict[str, Path]]:
    """A profile and its text; of a fitted twin, also which operator runs on it."""
    from hyle_substrates.profile import find_profile

    if not name.endswith(".onnx"):
        return *find_profile(name), {}
    from hyle_compiler.box_target import target_of
    from hyle_compiler.fitting.graph import read_fit

    record, _ = read_fit(Path(name))
    return *target_of(record), {record.name: Path(name)}


def _black_boxes(pairs: list[str]) -> dict[str, Path]:
    from hyle_errors import CallerError

    found = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not (name and separator and path):
            raise CallerError(f"--black-box {pair} names no node and no file.", remedy="Write NODE=TWIN.onnx.")
        found[name] = Path(path)
    return found


def _render_cost(cost: dict[str, Any]) -> None:
    from hyle_compiler.quantities import si

    parts = [f"{100 * cost['utilisation']:.0f} % of the cells in use"]
    if cost["devices"] > 1:
        parts.append(f"{cost['devices']} devices of {cost['tiles_a_device']} tiles")
    for key, unit, word in (("latency_s", "s", "latency"), ("energy_j", "J", "energy"), ("program_s", "s", "to write")):
        if cost[key] is not None:
            beside = f" (digital: {si(cost['digital'][key], unit)})" if key in cost["digital"] else ""
            parts.append(f"{word} {si(cost[key], unit)}{beside}")
    print("cost: " + ", ".join(parts))


def _render_budget(budget: dict[str, Any], console: Console) -> None:
    rows = [
        [
            f"{100 * p['share_of_macs']:.1f}",
            f"{100 * p['drop'] + 0.0:.2f} ± {100 * p['standard_error']:.2f}".replace("-0.00 ", "0.00 "),
            str(p["replicas"]),
            "clipped" if p["clipped"] else "",
            str(p["tiles"]),
            ", ".join(p["digital"]) or "none",
            "chosen" if p == budget["chosen"] else "",
        ]
        for p in budget["frontier"]
    ]
    columns = ["% of MACs on physics", "points lost", "sets of tiles", "weights", "tiles", "digital", ""]
    console.table(f"budget: at most {100 * budget['max_drop']:g} points", columns, rows)
    if not budget["kept"]:
        print("warning: no set of layers keeps the budget: allow a larger --max-drop, or --adapt the model.")


def _render_device(device: dict[str, Any], metric: str, console: Console) -> None:
    rows = [
        [layer["name"], f"{100 * layer['expected_error']:.2f}", f"{100 * layer['measured_error']:.2f}"]
        for layer in device["layers"]
    ]
    if rows:
        console.table(f"layers on {device['identity']}", ["", "% expected", "% measured"], rows)
    if "score" in device:
        print(
            f"{metric} on the device: {100 * device['score']:.2f} % "
            f"({device['samples']} samples, written {device['writes']} times)"
        )
    for note in device["notes"]:
        print(f"note: {note}")


def _fraction(text: str | None) -> float | None:
    from hyle_errors import CallerError

    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise CallerError(f"--max-drop {text} is no share.", remedy="Give a percentage such as 1%.")
    return value


def _device(args: argparse.Namespace) -> dict[str, str] | None:
    from hyle_errors import CallerError

    given = {"ca": args.ca, "certificate": args.cert, "key": args.cert_key}
    named = {name: str(path) for name, path in given.items() if path is not None}
    if args.device is None:
        if named:
            raise CallerError("Certificates were given, and no --device.", remedy="Give --device HOST:PORT too.")
        return None
    host, _, port = args.device.rpartition(":")
    if not args.device.startswith("unix:") and not (host and port.isdigit() and 0 < int(port) < 65536):
        raise CallerError(f"--device {args.device} is not HOST:PORT.", remedy="Give the agent's address.")
    if ("certificate" in named) != ("key" in named):
        raise CallerError("A certificate and its key belong together.", remedy="Give both --cert and --cert-key.")
    return {"address": args.device, **named}


def _copies(text: str) -> int | None:
    from hyle_errors import CallerError

    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise CallerError(f"--copies {text} is no number of copies.", remedy="Give a number of 1 or more, or auto.")
    return int(text)


def render(result: dict[str, object], console: Console) -> None:
    """Print what was written and what to expect of it."""
    from hyle_compiler.durations import format_duration

    accuracy = cast(dict[str, Any], result["calibration"])
    signed = "signed" if result["signed"] else "not signed"
    print(f"{result['bundle']}: {result['name']} {result['version']} for {result['target']}, {signed}")
    print(f"sha256 {result['digest']}")
    macs = cast(int, result["macs_on_physics"])
    print(f"{result['tiles']} tiles, {macs:,} multiply-accumulates an inference on physics")
    _render_cost(cast(dict[str, Any], result["cost"]))
    for box in cast(list[dict[str, Any]], result["black_boxes"]):
        held = f"twin's correlation {box['correlation']:.4f}, error {100 * box['error']:.1f} %"
        print(f"black box: {box['name']} on {box['matter']} ({box['identity']}): {held}")
    for entry in cast(list[dict[str, str]], result["digital"]):
        print(f"digital: {entry['node']} ({entry['op']}): {entry['reason']}")
    rows = [
        ["float model", f"{100 * accuracy['float']:.2f}", ""],
        ["exact matter", f"{100 * accuracy['exact']:.2f}", ""],
    ]
    rows += [
        [f"after {format_duration(a['age_s'])}", f"{100 * a['mean']:.2f}", f"{100 * a['std']:.2f}"]
        for a in accuracy["ages"]
    ]
    console.table(f"{accuracy['metric']} on {accuracy['samples']} calibration samples", ["", "%", "std"], rows)
    if told := cast(dict[str, Any], result.get("adaptation")):
        print(f"adapted by {told['method']} ({told['why']}): {told['outcome']}, {told['passes']} passes")
        for note in told["notes"]:
            print(f"note: {note}")
    if device := cast(dict[str, Any], result.get("device")):
        _render_device(device, accuracy["metric"], console)
    if result["budget"]:
        _render_budget(cast(dict[str, Any], result["budget"]), console)
    for warning in cast(list[dict[str, str]], result["warnings"]):
        print(f"warning: {warning['message']} {warning['remedy']}")
