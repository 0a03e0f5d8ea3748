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
    add_agent_options(parser)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Deploy."""

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


def render(result: dict[str, object], console: Console) -> None:
    """Say what serves now."""
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
