"""`hyle sign`: sign a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyle_bundle.keys import load_private_key, read_passphrase
from hyle_bundle.writer import sign_bundle

from hyle.console import Console

__all__ = ["HELP", "configure", "render", "run"]

HELP = "Sign a bundle in place; a signature that it already has is replaced."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("bundle", type=Path, metavar="OUT.hyle", help="the bundle")
    parser.add_argument("--key", type=Path, required=True, metavar="K", help="private key, from `hyle keys new`")
    parser.add_argument("--passphrase-file", type=Path, metavar="F", help="file whose first line decrypts the key")


def run(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Check the bundle and sign it."""
    key = load_private_key(args.key, read_passphrase(args.passphrase_file) if args.passphrase_file else None)
    console.progress(f"checking and signing {args.bundle}")
    digest = sign_bundle(args.bundle, key)
    return {"bundle": str(args.bundle), "digest": digest, "signer": key.public.fingerprint}


def render(result: dict[str, object], console: Console) -> None:
    """Say what was signed."""
    console.say(f"signed {result['bundle']}")
    console.say(f"digest {result['digest']}")
    console.say(f"signer {result['signer']}")
