"""`hyle deploy`: install and activate a bundle on an agent."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import msgspec
from hyle_deploy.options import add_agent_options, connect_from
from hyle_deploy.records import DeployResult, Progress
from hyle_errors import CallerError

from hyle.console import Console

HELP = "Install a bundle on an agent and let it serve; only what the agent lacks is sent."

_LONGEST_OVERRIDE = 1 << 16
_STAGES = {
    "plan": "asking what the agent lacks",
    "install": "programming the device and running the self-test",
    "activate": "activating",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundle", type=Path, metavar="OUT.hyle", help="the bundle")
    parser.add_argument("--install-only", action="store_true", help="leave it in its slot; what serves now goes on")
    parser.add_argument(
        "--override", type=Path, metavar="FILE", help="signed leave to install an older bundle (`hyle override`)"
    )
    parser.add_argument("--fleet", type=Path, metavar="fleet.toml", help="deploy to a fleet in waves, instead of --to")
    parser.add_argument("--one-wave", action="store_true", help="stop after the next wave; run it again to go on")
    parser.add_argument("--record", type=Path, metavar="FILE", help="which agents have it (default: beside fleet.toml)")
    add_agent_options(parser, required=False)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Deploy."""
    if (args.fleet is None) == (args.to is None):
        raise CallerError("Give one of --to and --fleet.", remedy="--to HOST:PORT for an agent, --fleet for many.")
    if args.fleet is not None:
        return _roll_out(args, console)

    def show(progress: Progress) -> None:
        if progress.stage == "upload":
            console.progress(f"uploading: {progress.done / 1e6:.1f} of {progress.total / 1e6:.1f} MB")
        else:
            console.progress(_STAGES[progress.stage])

    override = _read(args.override) if args.override else b""
    with connect_from(args) as client:
        result = client.deploy(args.bundle, activate=not args.install_only, progress=show, override=override)
    return {"agent": args.to, **asdict(result)}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_OVERRIDE)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise CallerError(message, remedy="Give the file that `hyle override` wrote.") from error


def _roll_out(args: argparse.Namespace, console: Console) -> dict[str, object]:
    from hyle_deploy.fleet import read_fleet
    from hyle_deploy.rollout import roll_out

    if args.install_only or args.override:
        raise CallerError("A fleet's bundles are activated as they come.", remedy="Use --to for a single agent.")
    record = args.record or args.fleet.with_suffix(".record.json")
    fleet = read_fleet(args.fleet)
    done = roll_out(
        args.bundle, fleet, record, one_wave=args.one_wave, timeout_s=args.timeout, progress=console.progress
    )
    document: dict[str, object] = msgspec.to_builtins(done)
    return {"fleet": str(args.fleet), **document, "exit_code": 1 if done.outcome == "stopped" else 0}


def _render_fleet(result: dict[str, object], console: Console) -> None:
    waves = msgspec.convert(result["waves"], list[list[dict[str, str]]])
    rows = [
        (str(number), one["name"] or one["address"], one["state"], one["message"][:80])
        for number, wave in enumerate(waves, 1)
        for one in wave
    ]
    console.table("", ("wave", "agent", "state", ""), rows)
    console.say(f"{result['outcome']}: {result['reason']}" if result["reason"] else str(result["outcome"]))


def render(result: dict[str, object], console: Console) -> None:
    """Say what serves now."""
    if "fleet" in result:
        _render_fleet(result, console)
        return
    deployed = msgspec.convert(result, DeployResult)
    verb = "serves" if deployed.activated else "waits in its slot"
    console.say(f"{deployed.model} {deployed.version} {verb} on {result['agent']}, slot {deployed.slot}.")
    if deployed.notice:
        console.say(f"note: it was {deployed.notice}.")
    console.say(
        f"sent {deployed.sent_bytes / 1e6:.2f} of {deployed.bundle_bytes / 1e6:.2f} MB ({deployed.sent_blobs} files)"
    )
    if deployed.self_test:
        console.say(f"self-test residual {deployed.self_test.residual:.4f}, bound {deployed.self_test.tolerance:.4f}")
