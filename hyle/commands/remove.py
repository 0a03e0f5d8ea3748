"""`hyle remove`: take a model and all its versions off an agent."""

from __future__ import annotations

import argparse

from hyle_deploy.options import add_agent_options, connect_from

from hyle.console import Console

HELP = "Take a model and all its versions off an agent; its tiles and its disk space are free then."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    add_agent_options(parser)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Remove."""
    with connect_from(args) as client:
        client.remove(args.model)
    return {"agent": args.to, "model": args.model, "removed": True}


def render(result: dict[str, object], console: Console) -> None:
    """Say what is gone."""
    console.say(f"{result['model']} is no longer on {result['agent']}.")
