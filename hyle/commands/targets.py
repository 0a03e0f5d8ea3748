"""`hyle targets`: the substrates that can be compiled for."""

from __future__ import annotations

import argparse
from typing import Any, cast

from hyle.console import Console

HELP = "List the substrates, or show one's constraint sheet with its sources."

UNBOUNDED = 2**20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("name", nargs="?", help="a target's name, or the path of a profile (.toml)")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Read one profile or all of them."""
    import msgspec
    from hyle_substrates.box_profile import box_names, load_box
    from hyle_substrates.profile import load_profile, profile_names

    boxes = box_names()
    if args.name:
        sheet = load_box(args.name) if args.name in boxes else load_profile(args.name)
        return {"targets": [msgspec.to_builtins(sheet)], "one": True}
    targets = [msgspec.to_builtins(load_profile(name)) for name in profile_names()]
    return {"targets": targets, "black_boxes": [msgspec.to_builtins(load_box(name)) for name in boxes], "one": False}


def render(result: dict[str, object], console: Console) -> None:
    """Print a table, or one sheet as TOML-like lines."""
    targets = cast(list[dict[str, Any]], result["targets"])
    if result["one"]:
        _sheet(targets[0], "")
        return
    _aligned([(one["name"], one["substrate"], _size(one["array"]), one["title"]) for one in targets])
    print("\nblack boxes, to be fitted first: hyle fit matter --option profile=NAME -o TWIN.onnx")
    boxes = cast(list[dict[str, Any]], result["black_boxes"])
    _aligned([(one["name"], one["black_box"], f"{one['inputs']} -> {one['outputs']}", one["title"]) for one in boxes])


def _size(array: dict[str, Any]) -> str:
    return "no bound" if array["rows"] >= UNBOUNDED else f"{array['rows']} x {array['cols']}"


def _aligned(rows: list[tuple[str, str, str, str]]) -> None:
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + f"  {row[3]}")


def _sheet(table: dict[str, Any], prefix: str) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            _sheet(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
            print(f"{prefix}{key}:\n" + "\n".join(f"  - {item}" for item in value))
        else:
            print(f"{prefix}{key} = {value}")
