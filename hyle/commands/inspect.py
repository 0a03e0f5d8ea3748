"""`hyle inspect`: what is inside a bundle."""

from __future__ import annotations

import argparse
import json
import tempfile
import webbrowser
from pathlib import Path
from typing import Any, cast

from hyle.console import Console

HELP = "Show what is inside a bundle: layers, tiles, digests, signer, expected accuracy."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundle", type=Path, metavar="OUT.hyle")
    parser.add_argument("--report", action="store_true", help="open the HTML report in a browser")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Open and verify the bundle."""
    from hyle_bundle import open_bundle

    with open_bundle(args.bundle) as bundle:
        manifest = bundle.manifest
        if args.report:
            page = Path(tempfile.mkdtemp(prefix="hyle-report-")) / "report.html"
            page.write_bytes(bytes(bundle.read("report.html")))
            console.say(f"report: {page}")
            webbrowser.open(page.as_uri())
        return {
            "name": manifest.name,
            "version": manifest.version,
            "counter": manifest.counter,
            "compiler": manifest.compiler,
            "target": manifest.target,
            "compensation": manifest.compensation,
            "digest": bundle.digest,
            "signer": bundle.signer,
            "self_test_tolerance": manifest.golden.tolerance,
            "files": {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in manifest.files.items()},
            "report": json.loads(bytes(bundle.read("report.json"))),
        }


def render(result: dict[str, object], console: Console) -> None:
    """Print the bundle's identity, layers and files."""
    from hyle_compiler.durations import format_duration

    report = cast(dict[str, Any], result["report"])
    print(f"{result['name']} {result['version']} (counter {result['counter']}) for {result['target']}")
    print(f"by {result['compiler']}")
    print(f"sha256 {result['digest']}\nsigner {result['signer'] or 'none: the bundle is not signed'}")
    rows = [
        [r["name"], r["op"], f"{r['rows']}x{r['cols']}", r["tiles"], r["copies"], f"{r['macs']:,}", r["range"]]
        for r in report["layers"]
    ]
    console.table("layers on physics", ["layer", "op", "matrix", "tiles", "copies", "MACs", "range"], rows)
    for box in report.get("black_boxes", []):
        held = f"twin's correlation {box['correlation']:.4f}, error {100 * box['error']:.1f} %"
        print(f"black box: {box['name']} on {box['matter']} ({box['identity']}): {held}")
    for entry in report["digital"]:
        print(f"digital: {entry['node']} ({entry['op']}): {entry['reason']}")
    files = cast(dict[str, dict[str, Any]], result["files"])
    console.table(
        "files", ["file", "bytes", "sha256"], [[name, f["size"], f["sha256"][:16]] for name, f in files.items()]
    )
    accuracy = report["calibration"]
    ages = ", ".join(f"{100 * a['mean']:.2f} % after {format_duration(a['age_s'])}" for a in accuracy["ages"])
    print(f"expected {accuracy['metric']} (calibration samples): float {100 * accuracy['float']:.2f} %; {ages}")
