"""`hyle targets`: the substrates that can be compiled for."""

from __future__ import annotations

import argparse
from typing import Any, cast

from hyle.console import Console

HELP = "List the substrates, or show one's constraint sheet with its sources."


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
    for target in targets:
        array = target["array"]
        print(f"{target['name']:16} {target['substrate']:8} {array['rows']} x {array['cols']:<8} {target['title']}")
    print("\nblack boxes, to be fitted first: hyle fit matter --option profile=NAME -o TWIN.onnx")
    for box in cast(list[dict[str, Any]], result["black_boxes"]):
        print(f"{box['name']:22} {box['black_box']:14} {box['inputs']:3} -> {box['outputs']:<3} {box['title']}")


def _sheet(table: dict[str, Any], prefix: str) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            _sheet(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
            print(f"{prefix}{key}:\n" + "\n".join(f"  - {item}" for item in value))
        else:
            print(f"{prefix}{key} = {value}")
