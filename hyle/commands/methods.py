"""`hyle methods`: the training methods, what each needs, and which of them a target admits."""

from __future__ import annotations

import argparse
from typing import Any, cast

from hyle.console import Console

HELP = "List the training methods of `hyle compile --adapt`, and what each needs."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--target", metavar="T", help="say for each method whether this target admits it")
    parser.add_argument("--no-labels", action="store_true", help="the samples have no labels")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Read every method's needs."""
    from hyle_compiler.adapt.registry import load_method, method_names, refusal
    from hyle_substrates.profile import load_profile

    profile = load_profile(args.target) if args.target else None
    found: list[dict[str, object]] = []
    for name in method_names():
        method = load_method(name)
        entry: dict[str, object] = {
            "name": name,
            "summary": method.summary,
            "needs": sorted(method.needs.abilities),
            "labels": method.needs.labels,
            "torch": method.needs.torch,
            "passes": method.needs.passes,
            "source": method.source,
        }
        if profile is not None:
            entry["refused"] = refusal(method, profile, labels=not args.no_labels)
        found.append(entry)
    return {"methods": found, "target": None if profile is None else profile.name}


def render(result: dict[str, object], console: Console) -> None:
    """Print a table, then why a method is refused."""
    methods = cast(list[dict[str, Any]], result["methods"])
    rows = [
        [m["name"], ", ".join(m["needs"]) or "the loss", m["labels"], "torch" if m["torch"] else "", m["passes"]]
        for m in methods
    ]
    console.table("", ["method", "needs of the substrate", "labels", "package", "passes a step"], rows)
    for method in methods:
        if method.get("refused"):
            print(f"{method['name']} does not fit: {method['refused']}")
