"""`hyle override`: sign the leave to install an older bundle on one agent, once."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from hyle_bundle import open_bundle
from hyle_bundle.atomic import replacing
from hyle_bundle.keys import load_private_key, read_passphrase
from hyle_bundle.override import Override, sign_override
from hyle_deploy.options import add_agent_options, connect_from
from hyle_errors import CallerError

from hyle.console import Console

HELP = (
    "Sign the leave to install a bundle that is older than what an agent had. It holds for that agent, that model, "
    "once, and for a bounded time; `hyle deploy --override FILE` uses it."
)

_LONGEST_S = 365 * 86_400


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundle", type=Path, metavar="OLD.hyle", help="the older bundle")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="where to write it")
    parser.add_argument("--sign-with", type=Path, required=True, metavar="K", help="operator's private key")
    parser.add_argument("--passphrase-file", type=Path, metavar="F", help="file whose first line decrypts the key")
    parser.add_argument("--hours", type=float, default=1.0, metavar="H", help="how long it may be used (1)")
    add_agent_options(parser)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Ask the agent for its challenge and sign."""
    seconds = args.hours * 3600.0
    if not 0.0 < seconds <= _LONGEST_S:
        raise CallerError(f"--hours {args.hours} is no time for an override.", remedy="Give hours, up to 8760.")
    key = load_private_key(args.sign_with, read_passphrase(args.passphrase_file) if args.passphrase_file else None)
    with open_bundle(args.bundle) as bundle:
        model, counter = bundle.manifest.name, bundle.manifest.counter
    with connect_from(args) as client:
        status = client.status()
    if not status.challenge:
        raise CallerError(f"The agent at {args.to} takes no override.", remedy="Update it, or free its disk.")
    now = int(time.time())
    override = Override(
        model=model,
        counter=counter,
        agent=status.node,
        challenge=status.challenge,
        issued=now,
        expires=now + int(seconds),
    )
    with replacing(args.output) as file:
        file.write(sign_override(override, key))
    return {
        "override": str(args.output),
        "model": model,
        "counter": counter,
        "agent": status.node,
        "expires": override.expires,
        "signer": key.public.fingerprint,
    }


def render(result: dict[str, object], console: Console) -> None:
    """Say what it lets in."""
    console.say(f"wrote {result['override']}: {result['model']} from counter {result['counter']} on {result['agent']}")
    console.say(f"signer {result['signer']}; use it with: hyle deploy OLD.hyle --override {result['override']}")
