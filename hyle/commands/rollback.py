"""`hyle rollback`: let an agent's previous version serve again."""

from __future__ import annotations

import argparse

from hyle_deploy.options import add_agent_options, connect_from

from hyle.console import Console

HELP = "Let the previous version of a model serve again; the switch falls between two requests."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    add_agent_options(parser)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Roll back."""
    with connect_from(args) as client:
        slot, version = client.rollback(args.model)
    return {"agent": args.to, "model": args.model, "slot": slot, "version": version}


def render(result: dict[str, object], console: Console) -> None:
    """Say what serves now."""
    console.say(f"{result['model']} {result['version']} serves again on {result['agent']}, from slot {result['slot']}.")
