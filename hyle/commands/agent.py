"""`hyle agent`: run the edge agent, write its configuration and certificates, or list what it can ever tell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hyle.console import Console

if TYPE_CHECKING:
    from hyle_agent.config import Config

_JSON = "one JSON document on stdout, messages on stderr"

HELP = "Run the edge agent, write its configuration and certificates, or list what it can ever tell."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the two actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _configure_run(actions.add_parser("run", help="serve until SIGTERM, then drain"))
    audit = actions.add_parser("audit", help="list everything that telemetry can ever carry off this device")
    audit.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=_JSON)
    init = actions.add_parser("init", help="write agent.toml and certificates")
    init.add_argument("--directory", type=Path, default=Path(), metavar="DIR", help="where (this folder)")
    init.add_argument("--host", action="append", default=[], metavar="NAME", help="name or address of it; may repeat")
    init.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=_JSON)


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _configure_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="agent.toml, as `hyle agent init` writes it")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to serve (127.0.0.1:8500); port 0: any")
    parser.add_argument("--store", type=_path, metavar="DIR", help="folder of the installed bundles (hyle-store)")
    parser.add_argument("--insecure", action="store_true", help="run unsigned bundles too; only on 127.0.0.1")
    parser.add_argument(
        "--trust", type=_path, action="append", metavar="KEY.pub", help="key whose bundles run here; may repeat"
    )
    parser.add_argument("--driver", metavar="NAME", help="driver that owns the device (twin)")
    parser.add_argument("--profile", metavar="NAME", help="the driver's option `profile` (twin: pcm-hermes)")
    parser.add_argument("--seed", type=int, metavar="N", help="the driver's option `seed`, a twin's instance (0)")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="another option; may repeat")
    parser.add_argument("--broker", metavar="HOST:PORT", help="MQTT broker that telemetry goes to")
    parser.add_argument("--node", metavar="NAME", help="the agent's name in its fleet (this host's)")
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="receives HOST:PORT once the agent is ready")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=_JSON)


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Run the agent until it is told to stop, or write the files."""
    actions = {"init": _init, "audit": _audit, "run": _serve}
    return actions[args.action](args)


def _audit(args: argparse.Namespace) -> dict[str, object]:
    from hyle_agent.telemetry.metrics import audit_rows

    return {"action": "audit", "metrics": [list(row) for row in audit_rows()]}


def _init(args: argparse.Namespace) -> dict[str, object]:
    from hyle_agent.initial import write_initial

    written = write_initial(args.directory, tuple(args.host))
    return {"action": "init", "config": str(written.config), "files": [str(path) for path in written.files]}


def _serve(args: argparse.Namespace) -> dict[str, object]:
    from hyle_agent.config import read_config
    from hyle_agent.options import Options, with_options
    from hyle_agent.polling import poll_here

    options = Options(
        listen=args.listen,
        store=None if args.store is None else str(args.store),
        insecure=args.insecure,
        trusted=None if args.trust is None else [str(path) for path in args.trust],
        driver=args.driver,
        driver_options=_pairs(args),
        broker=args.broker,
        node=args.node,
    )
    config: Config = with_options(read_config(args.config), options)
    if config.engine != "aio":
        poll_here()
    from hyle_agent.cli import announce, serve  # grpc, which must come after `poll_here`

    served: list[str] = []

    def ready(address: str) -> None:
        served.append(address)
        announce(address, args.ready_file)

    serve(config, ready=ready)
    return {"action": "run", "address": served[0] if served else None, "stopped": True}


def _pairs(args: argparse.Namespace) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in args.option)
    named = {"profile": args.profile, "seed": args.seed}
    return {**pairs, **{key: str(value) for key, value in named.items() if value is not None}}


def render(result: dict[str, object], console: Console) -> None:
    """Say what was written, or that the agent stopped."""
    if result["action"] == "audit":
        rows = result["metrics"] if isinstance(result["metrics"], list) else []
        columns = ["reported by", "metric", "type", "unit", "meaning"]
        console.table("everything that telemetry can carry", columns, rows)
        return
    if result["action"] == "run":
        console.say("stopped")
        return
    for path in result["files"] if isinstance(result["files"], list) else []:
        console.say(f"wrote {path}")
    console.say(f"Name the keys you trust in it, then run: hyle agent run --config {result['config']}")
