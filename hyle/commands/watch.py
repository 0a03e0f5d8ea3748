"""`hyle watch`: what a fleet says of itself, live."""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from hyle_deploy.times import seconds

from hyle.console import Console

if TYPE_CHECKING:
    from hyle_deploy.watch import FleetWatch, Watched
    from rich.table import Table

HELP = "Live view of a fleet from its Sparkplug B telemetry. Ends with Ctrl-C, or after --seconds."

_COLUMNS = (
    "node",
    "state",
    "model",
    "version",
    "ready",
    "requests",
    "errors",
    "p50 ms",
    "p99 ms",
    "queue",
    "self-test",
    "drift",
    "answers",
    "fault",
    "energy",
)
_ONCE_S = 15.0
_REFRESH_S = 0.5
_EVENTS = 8
_LONGEST = 120


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--broker", required=True, metavar="HOST:PORT", help="MQTT broker that the agents report to")
    parser.add_argument("--group", help="only this Sparkplug group (default: all)")
    parser.add_argument("--once", action="store_true", help="collect for --seconds, show the table once, end")
    parser.add_argument("--seconds", type=seconds, help=f"end after so long ({_ONCE_S:g} with --once or --json)")
    parser.add_argument("--listen-only", action="store_true", help="never ask a node for births; send nothing")
    parser.add_argument("--username", help="account at the broker")
    parser.add_argument("--password-file", metavar="FILE", help="its password, on the first line")
    parser.add_argument("--ca", metavar="FILE", help="certificates (PEM) to check the broker's against; turns TLS on")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Watch; the fleet as it was known at the end."""
    from hyle_deploy.watch import BrokerAddress, FleetWatch

    seconds = _seconds(args)
    address = BrokerAddress.parse(
        args.broker, username=args.username, password_file=args.password_file, ca_file=args.ca
    )
    with FleetWatch(address, args.group, ask=not args.listen_only) as watch:
        with contextlib.suppress(KeyboardInterrupt):
            if args.once or args.json:
                console.progress(f"listening to {args.broker} for {seconds:g} s")
                time.sleep(seconds)
            else:
                _show_live(watch, seconds, console)
        seen = watch.state()
    return {"broker": args.broker, **asdict(seen)}


def render(result: dict[str, object], console: Console) -> None:
    """Show the fleet as a table."""
    nodes = cast(list[Mapping[str, object]], result["nodes"])
    console.table("", _COLUMNS, list(_rows(nodes)))
    for event in cast(list[Mapping[str, object]], result.get("events", []))[-_EVENTS:]:
        console.say("  ".join(_printable(event[field]) for field in ("time", "source", "subject", "kind", "message")))
    console.say(
        f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}, {result['messages']} messages"
        + (f", {result['refused']} unreadable" if result["refused"] else "")
        + ("" if result["connected"] else "; the broker is away")
    )


def _seconds(args: argparse.Namespace) -> float:
    if args.seconds is not None:
        return float(args.seconds)
    return _ONCE_S if args.once or args.json else math.inf


def _show_live(watch: FleetWatch, seconds: float, console: Console) -> None:
    until = time.monotonic() + seconds
    try:
        from rich.live import Live
    except ModuleNotFoundError:
        _show_lines(watch, until, console)
        return
    from rich.console import Console as RichConsole

    with Live(console=RichConsole(stderr=True), auto_refresh=False, transient=True) as live:
        while time.monotonic() < until:
            live.update(_rich_table(watch.state()), refresh=True)
            watch.wait(min(_REFRESH_S, max(0.0, until - time.monotonic())))
            time.sleep(min(0.1, max(0.0, until - time.monotonic())))


def _show_lines(watch: FleetWatch, until: float, console: Console) -> None:
    """One line for each row that changed, for a terminal without rich."""
    shown: dict[tuple[object, object], tuple[object, ...]] = {}
    while time.monotonic() < until:
        watch.wait(min(_REFRESH_S, max(0.0, until - time.monotonic())))
        for row in _rows(cast(list[Mapping[str, object]], watch.state().nodes)):
            if shown.get((row[0], row[2])) != row:
                shown[row[0], row[2]] = row
                console.say("  ".join(f"{name}={value}" for name, value in zip(_COLUMNS, row, strict=True)))


def _rich_table(seen: Watched) -> Table:
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(caption=f"{seen.messages} messages" + ("" if seen.connected else " · the broker is away"))
    for index, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if index < 4 else "right", no_wrap=True)
    for row in _rows(cast(list[Mapping[str, object]], seen.nodes)):
        table.add_row(*(Text(str(cell), style=_STYLES.get(cell, "")) for cell in row))
    return table


_STYLES = {"online": "green", "stale": "yellow", "offline": "red", "no": "red"}


def _rows(nodes: list[Mapping[str, object]]) -> Iterator[tuple[str, ...]]:
    for node in nodes:
        name, state = f"{node['group']}/{node['node']}", str(node["state"])
        models = cast(Mapping[str, Mapping[str, object]], node["models"])
        for model, device in models.items():
            yield (_printable(name), state, *_model_cells(model, device))
        if not models:
            yield (_printable(name), state, *[""] * (len(_COLUMNS) - 2))


def _model_cells(model: str, device: Mapping[str, object]) -> Iterator[str]:
    values = cast(Mapping[str, object], device["metrics"])
    yield _printable(values.get("model") or model)
    yield _printable(values.get("bundle/version"))
    yield "yes" if device["online"] and values.get("ready") is True else "no"
    yield _printable(values.get("requests"))
    yield _printable(values.get("errors"))
    yield _number(values.get("latency/p50_s"), 1e3)
    yield _number(values.get("latency/p99_s"), 1e3)
    yield _printable(values.get("queue_depth"))
    yield f"{_number(values.get('self_test/residual'))} / {_number(values.get('self_test/tolerance'))}"
    yield f"{_number(values.get('drift/score'))} / {_number(values.get('drift/limit'))}"
    yield _printable(values.get("substrate") or None)
    yield _printable(values.get("fault") or None)
    yield f"{_number(values.get('energy_j'))} J"


def _number(value: object, scale: float = 1.0) -> str:
    return f"{value * scale:.3g}" if isinstance(value, (int, float)) else "–"


def _printable(value: object) -> str:
    """What came over the network, safe for a terminal."""
    text = "–" if value is None else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)[:_LONGEST]
