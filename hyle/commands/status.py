"""`hyle status`: what an agent runs."""

from __future__ import annotations

import argparse
from dataclasses import asdict

import msgspec
from hyle_deploy.options import add_agent_options, connect_from
from hyle_deploy.records import AgentStatus

from hyle.console import Console

HELP = "Say what an agent runs: node, device, and the slots of every model."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_agent_options(parser)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Ask the agent."""
    with connect_from(args) as client:
        return {"agent": args.to, **asdict(client.status())}


def render(result: dict[str, object], console: Console) -> None:
    """Show the agent and a table of slots."""
    status = msgspec.convert(result, AgentStatus)
    device = status.device
    kind = "simulated" if device.simulated else "attached"
    console.say(f"{status.node}, agent {status.agent_version}, up {status.uptime_s:.0f} s")
    console.say(f"{device.profile} ({kind}, driver {device.driver}, {device.identity})")
    console.say(f"{device.tiles_used} of {device.tiles} tiles used")
    rows = [
        (
            model.name,
            slot.version,
            slot.slot,
            _state(model.active == slot.slot, model.ready),
            slot.signer or "-",
            slot.digest[:12],
        )
        for model in status.models
        for slot in model.slots
    ]
    if rows:
        console.table("", ("model", "version", "slot", "state", "signer", "digest"), rows)
    if status.maintenance:
        console.say(status.maintenance)
    for model in status.models:
        for words in (model.reason, model.notice):
            if words:
                console.say(f"{model.name}: {words}")


def _state(active: bool, ready: bool) -> str:
    return "waits" if not active else "serves" if ready else "not ready"
