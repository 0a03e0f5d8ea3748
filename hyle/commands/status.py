"""`hyle status`: what an agent runs."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

import msgspec
from hyle_deploy.options import add_agent_options, connect_from
from hyle_deploy.records import AgentStatus, ModelState

from hyle.console import Console

_EVENTS = 8

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
    if device.fault or not device.attached:
        console.say(f"the device does not answer: {device.fault}")
    for model in status.models:
        _say_model(model, console)
    for event in status.events[-_EVENTS:]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at_s))
        console.say(f"{at}  {event.kind:16s}  {event.model or 'device'}: {event.message}")


def _say_model(model: ModelState, console: Console) -> None:
    """Say what people should know of a model."""
    if model.substrate:
        console.say(f"{model.name}: {_answers(model)}")
    if model.trial_left_s is not None:
        console.say(f"{model.name}: on trial for {model.trial_left_s:.0f} s more")
    if model.fault:
        console.say(f"{model.name}: the device is faulty: {model.fault}")
    for words in (model.reason, model.notice):
        if words:
            console.say(f"{model.name}: {words}")


def _answers(model: ModelState) -> str:
    """Say what answers, how old its calibration is, and how it drifts."""
    words = f"the {model.substrate} answers, calibrated {model.calibration_age_s:.0f} s ago"
    if model.drift_score is not None and model.drift_limit is not None:
        words += f", drift {model.drift_score:.1f} of {model.drift_limit:.1f}"
    counts = {"drift alarms": model.drift_alarms, "calibrations": model.recalibrations}
    counts |= {"fallbacks": model.fallbacks, "rollbacks": model.rollbacks}
    return words + "".join(f", {count} {name}" for name, count in counts.items() if count)


def _state(active: bool, ready: bool) -> str:
    return "waits" if not active else "serves" if ready else "not ready"
