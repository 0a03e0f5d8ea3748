"""`hyle verify`: check a bundle's container, digests and signature."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyle_bundle.bundle import open_bundle
from hyle_bundle.keys import load_public_key

from hyle.console import Console

__all__ = ["HELP", "configure", "render", "run"]

HELP = "Check every byte of a bundle, and with --trust that one of these keys signed it."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundle", type=Path, metavar="OUT.hyle", help="the bundle")
    parser.add_argument(
        "--trust", type=Path, nargs="+", action="extend", metavar="PUB", help="public keys that may sign"
    )


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Open the bundle with every check on."""
    trusted = None if args.trust is None else [load_public_key(path) for path in args.trust]
    console.progress(f"checking {args.bundle}")
    with open_bundle(args.bundle, trusted) as bundle:
        return {
            "bundle": str(args.bundle),
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            "digest": bundle.digest,
            "signer": bundle.signer,
            "trusted": trusted is not None,
            "files": len(bundle.names),
            "bytes": args.bundle.stat().st_size,
        }


def render(result: dict[str, object], console: Console) -> None:
    """Say what holds, and what nobody asked to be checked."""
    console.say(
        f"{result['bundle']} is whole: {result['name']} {result['version']}, "
        f"{result['files']} files, {result['bytes']} bytes"
    )
    console.say(f"digest {result['digest']}")
    if result["signer"] is None:
        console.say("signer none: anyone can have made this bundle; sign it with `hyle sign`")
    elif result["trusted"]:
        console.say(f"signer {result['signer']} (trusted)")
    else:
        console.say(f"signer {result['signer']} (name the keys you trust with --trust to check whose it is)")
