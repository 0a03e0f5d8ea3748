"""`hyle check-driver`: hold a driver, with the device that is attached, to its contract."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from typing import Any, cast

from hyle_deploy.times import seconds

from hyle.console import Console

HELP = "Check a driver and the device that is attached to it against the contract; what the device holds is lost."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("name", help="the driver's name, as its entry point says")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="its options; may repeat")
    for name, meaning in (
        ("unplug", "takes the device away"),
        ("replug", "gives it back; with --unplug"),
        ("freeze", "keeps the device from answering; --unplug by default"),
        ("thaw", "lets it answer again; --replug by default"),
    ):
        parser.add_argument(f"--{name}", metavar="COMMAND", help=f"command that {meaning}")
    parser.add_argument("--timeout", type=seconds, default=30.0, metavar="S", help="time for a call to fail in (30)")


class _Commands:
    """A rig made of commands."""

    def __init__(self, unplug: str, replug: str, freeze: str, thaw: str) -> None:
        self._commands = {"unplug": unplug, "replug": replug, "freeze": freeze, "thaw": thaw}

    def unplug(self) -> None:
        self._run("unplug")

    def replug(self) -> None:
        self._run("replug")

    def freeze(self) -> None:
        self._run("freeze")

    def thaw(self) -> None:
        self._run("thaw")

    def _run(self, name: str) -> None:
        from hyle_errors import CallerError

        command = self._commands[name]
        try:
            subprocess.run(shlex.split(command), check=True, timeout=60.0, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.SubprocessError) as error:
            raise CallerError(f"--{name} failed: {error}.", remedy="Try the command by itself.") from error


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Run every check."""
    from dataclasses import asdict

    from hyle_agent.drivers import find_driver
    from hyle_errors import CallerError
    from hyle_substrates import conformance, conformance_black_box, conformance_driver
    from hyle_substrates.driver import BlackBox

    if bool(args.unplug) != bool(args.replug):
        raise CallerError("--unplug and --replug belong together.", remedy="Give both or neither.")
    options = dict(pair.partition("=")[::2] for pair in args.option)
    connect = find_driver(args.name)
    rig = None
    if args.unplug:
        rig = _Commands(args.unplug, args.replug, args.freeze or args.unplug, args.thaw or args.replug)
    first = connect(options)
    first.close()
    checks: Any = conformance_black_box.CHECKS if isinstance(first, BlackBox) else conformance_driver.CHECKS
    subject: Any = conformance.Subject(lambda: connect(options), rig, args.timeout)
    findings = conformance.run(checks, subject)
    failed = any(finding.outcome == "failed" for finding in findings)
    return {
        "driver": args.name,
        "checks": [asdict(finding) for finding in findings],
        "passed": not failed,
        "exit_code": int(failed),
    }


def render(result: dict[str, object], console: Console) -> None:
    """Print every check's outcome."""
    checks = cast(list[dict[str, Any]], result["checks"])
    rows = [(check["check"], check["outcome"], check["reason"]) for check in checks]
    console.table(str(result["driver"]), ("check", "outcome", "reason"), rows)
