"""`hyle check-substrate`: hold a kind of physics to its contract."""

from __future__ import annotations

import argparse
from typing import Any, cast

from hyle.console import Console

HELP = "Check a substrate, with every installed profile that uses it, against its contract."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("name", help="the substrate's name, as its entry point says")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Run every check."""
    from dataclasses import asdict

    from hyle_errors import CallerError
    from hyle_substrates.conformance_substrate import check_substrate

    found = check_substrate(args.name)
    if not found:
        raise CallerError(f"No installed profile uses {args.name!r}.", remedy="Add one; docs/add-a-substrate.md.")
    failed = any(finding.outcome == "failed" for findings in found.values() for finding in findings)
    checks = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
    return {"substrate": args.name, "profiles": checks, "passed": not failed, "exit_code": int(failed)}


def render(result: dict[str, object], console: Console) -> None:
    """Print every check's outcome."""
    for profile, findings in cast(dict[str, list[dict[str, Any]]], result["profiles"]).items():
        rows = [(finding["check"], finding["outcome"], finding["reason"]) for finding in findings]
        console.table(profile, ("check", "outcome", "reason"), rows)
