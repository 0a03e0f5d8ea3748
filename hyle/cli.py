"""The one command, `hyle`: finds the verb, runs it, prints its result, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Protocol, cast

from hyle_errors import CallerError, HyleError, did_you_mean

from hyle.console import Console

__all__ = ["main"]

VERBS = {
    "targets": "list the substrates, or one's constraint sheet with its sources",
    "compile": "compile an ONNX model for a substrate into a bundle",
    "methods": "list the training methods of compile --adapt, and what each needs",
    "inspect": "show what is inside a bundle",
    "evaluate": "accuracy of a bundle on the twin, over time and device instances",
    "keys": "make a signing key",
    "sign": "sign a bundle",
    "override": "sign the leave to install an older bundle on one agent, once",
    "verify": "verify a bundle's digests and signature",
    "agent": "run the edge agent, or write its configuration",
    "deploy": "install and activate a bundle on an agent",
    "rollback": "let an agent's previous version serve again",
    "status": "what an agent runs",
    "infer": "query a model over gRPC",
    "watch": "live view of the fleet from its telemetry",
    "check-driver": "hold a driver and its device to the contract",
    "check-substrate": "hold a kind of physics to its contract",
    "fit": "fit the digital twin of an attached black box",
    "demo": "the whole way on this machine",
}


class Verb(Protocol):
    """What a module of `hyle.commands` offers."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, args: argparse.Namespace, console: Console) -> dict[str, object]:
        """Do it; the result is one JSON document."""

    def render(self, result: dict[str, object], console: Console) -> None:
        """Show the result to a person."""


def _load(name: str) -> Verb:
    return cast(Verb, importlib.import_module(f"hyle.commands.{name.replace('-', '_')}"))


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {name.ljust(width)}  {text}" for name, text in VERBS.items())
    return f"usage: hyle VERB [options]\n\n{lines}\n\n`hyle VERB --help` says more; every verb takes --json."


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _emit_json(document: object) -> None:
    print(json.dumps(_finite(document), indent=2, sort_keys=False), flush=True)


def _missing(verb: str, error: ModuleNotFoundError) -> CallerError:
    return CallerError(
        f"`hyle {verb}` needs the package {error.name}.", remedy="Install it with: pip install 'hyle[compiler]'"
    )


def _refused(error: HyleError, console: Console, *, as_json: bool) -> int:
    console.done()
    if as_json:
        _emit_json({"error": error.message, "remedy": error.remedy})
    print(f"error: {error.message}\n{error.remedy}", file=sys.stderr)
    return error.exit_code


def _run(verb: Verb, args: argparse.Namespace) -> int:
    console = Console(quiet=args.json)
    try:
        result = verb.run(args, console)
    except HyleError as error:
        return _refused(error, console, as_json=args.json)
    except ModuleNotFoundError as error:
        return _refused(_missing(args.verb, error), console, as_json=args.json)
    except KeyboardInterrupt:
        console.done()
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        console.done()
        if os.environ.get("HYLE_DEBUG"):
            traceback.print_exc()
        if args.json:
            _emit_json({"error": "internal error", "remedy": "Run again with HYLE_DEBUG=1 and report the trace."})
        print(
            f"internal error: {type(error).__name__}\nRun again with HYLE_DEBUG=1 and report the trace.",
            file=sys.stderr,
        )
        return 1
    console.done()
    if args.json:
        _emit_json(result)
    else:
        verb.render(result, console)
    return int(cast(int, result.get("exit_code", 0)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        0 for success, 1 for our fault, 2 for the caller's.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"hyle {version('hyle')}")
        return 0
    name = arguments[0]
    if name not in VERBS:
        near = did_you_mean(name, VERBS)
        print(f"error: {name!r} is no verb of hyle.\n{near or _usage()}".rstrip(), file=sys.stderr)
        return 2
    try:
        verb = _load(name)
    except ModuleNotFoundError as error:
        missing = _missing(name, error)
        print(f"error: {missing.message}\n{missing.remedy}", file=sys.stderr)
        return missing.exit_code
    parser = argparse.ArgumentParser(prog=f"hyle {name}", description=verb.HELP)
    verb.configure(parser)
    if not any("--json" in action.option_strings for action in parser._actions):
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout, messages on stderr")
    try:
        args = parser.parse_args(arguments[1:])
    except SystemExit as stop:
        return int(stop.code or 0)
    if not hasattr(args, "json"):
        args.json = False
    args.verb = name
    return _run(verb, args)


if __name__ == "__main__":
    sys.exit(main())
