"""The command-line options of every verb that talks to one agent."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyle_deploy.client import Client, connect
from hyle_deploy.times import seconds

__all__ = ["add_agent_options", "connect_from"]


def add_agent_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add --to, the TLS options and --timeout."""
    parser.add_argument("--to", required=required, metavar="HOST:PORT", help="the agent's address, or unix:PATH")
    parser.add_argument(
        "--tls", action="store_true", help="use TLS with the system's authorities; implied by --ca and --cert"
    )
    parser.add_argument("--ca", type=Path, metavar="PEM", help="authority that signed the agent's certificate")
    parser.add_argument("--cert", type=Path, metavar="PEM", help="your certificate, where the agent asks for one")
    parser.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    parser.add_argument("--timeout", type=seconds, default=30.0, metavar="S", help="longest wait for one answer (30)")


def connect_from(args: argparse.Namespace) -> Client:
    """Connect as the options say.

    Raises:
        CallerError: The address or the certificates cannot be used.
    """
    return connect(args.to, ca=args.ca, cert=args.cert, key=args.key, tls=args.tls, timeout_s=args.timeout)
