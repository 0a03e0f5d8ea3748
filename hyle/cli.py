"""The one command, `hyle`: finds the verb, runs it, prints its result, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

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
    "remove": "take a model and all its versions off an agent",
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


class _Parser(argparse.ArgumentParser):
    """Lets wrong arguments be told as every other error is."""

    def error(self, message: str) -> NoReturn:
        raise CallerError(f"{self.prog}: {message}.", remedy=self.format_usage().rstrip())


def _missing(verb: str, error: ModuleNotFoundError) -> CallerError:
    return CallerError(
        f"`hyle {verb}` needs the package {error.name}.", remedy="Install it with: pip install 'hyle[compiler]'"
    )


def _refused(error: HyleError, console: Console) -> int:
    console.done()
    if console.quiet:
        _emit_json({"error": error.message, "remedy": error.remedy})
    print(f"error: {error.message}\n{error.remedy}", file=sys.stderr)
    return error.exit_code


def _stopped(console: Console) -> int:
    console.done()
    if console.quiet:
        _emit_json({"error": "stopped", "remedy": "Run it again."})
    print("stopped", file=sys.stderr)
    return 130


def _failed(error: Exception, console: Console) -> int:
    console.done()
    remedy = "Run again with HYLE_DEBUG=1 and report the trace."
    if os.environ.get("HYLE_DEBUG"):
        traceback.print_exception(error)
    if console.quiet:
        _emit_json({"error": "internal error", "remedy": remedy})
    print(f"internal error: {type(error).__name__}\n{remedy}", file=sys.stderr)
    return 1


def _unwritten(error: OSError) -> int:
    """Say that stdout took no more, and keep the interpreter's end from trying again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # `hyle … | head`: who read it has seen enough
        return 128 + signal.SIGPIPE
    print(f"error: stdout cannot be written: {error.strerror}.\nSend it where there is room.", file=sys.stderr)
    return 1


def _parsed(verb: Verb, name: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"hyle {name}", description=verb.HELP)
    verb.configure(parser)
    if not any("--json" in action.option_strings for action in parser._actions):
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout, messages on stderr")
    args = parser.parse_args(arguments)
    _check_text(args)
    if not hasattr(args, "json"):
        args.json = False
    args.verb = name
    return args


def _check_text(args: argparse.Namespace) -> None:
    """Refuse words that are no text in this locale; paths may hold any bytes."""
    for value in vars(args).values():
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and any("\ud800" <= letter <= "\udfff" for letter in word):
                raise CallerError(f"{word!a} is not UTF-8.", remedy="Write it in UTF-8.")


def _run(name: str, arguments: Sequence[str], console: Console) -> int:
    try:
        if name not in VERBS:
            remedy = did_you_mean(name, VERBS).rstrip() or _usage()
            raise CallerError(f"{name!r} is no verb of hyle.", remedy=remedy)
        verb = _load(name)
        args = _parsed(verb, name, arguments)
        console.quiet = args.json
        result = verb.run(args, console)
    except HyleError as error:
        return _refused(error, console)
    except ModuleNotFoundError as error:
        return _refused(_missing(name, error), console)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except Exception as error:
        return _failed(error, console)
    console.done()
    if console.quiet:
        _emit_json(result)
    else:
        verb.render(result, console)
    return int(cast(int, result.get("exit_code", 0)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        0 for success, 1 for our fault, 2 for the caller's; 130 after Ctrl-C, 141 if nobody reads stdout any more.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"hyle {version('hyle')}")
        return 0
    console = Console(quiet="--json" in arguments)
    try:
        code = _run(arguments[0], arguments[1:], console)
        print(end="", flush=True)
    except KeyboardInterrupt:
        return _stopped(console)
    except OSError as error:
        return _unwritten(error)
    return code


if __name__ == "__main__":
    sys.exit(main())
