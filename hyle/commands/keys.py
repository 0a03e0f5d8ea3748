"""`hyle keys`: make a signing key."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyle_bundle.keys import generate_key, read_passphrase

from hyle.console import Console

__all__ = ["HELP", "configure", "render", "run"]

HELP = "Make an Ed25519 key to sign bundles with: NAME.key, which stays secret, and NAME.pub, which agents trust."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("action", choices=["new"], help="make a new key")
    parser.add_argument("name", metavar="NAME", help="what the two files are called")
    parser.add_argument("--dir", type=Path, default=Path(), metavar="D", help="folder to write them to (default: here)")
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="F", help="encrypt NAME.key with this file's first line"
    )


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Make the key."""
    passphrase = read_passphrase(args.passphrase_file) if args.passphrase_file else None
    pair = generate_key(args.name, args.dir, passphrase)
    return {"private": str(pair.private), "public": str(pair.public), "fingerprint": pair.fingerprint}


def render(result: dict[str, object], console: Console) -> None:
    """Say where the key is."""
    console.say(f"private key  {result['private']}  (keep it secret)")
    console.say(f"public key   {result['public']}  (give it to agents)")
    console.say(f"fingerprint  {result['fingerprint']}")
