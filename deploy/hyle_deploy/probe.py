"""Ask an agent's health service, for supervisors that only understand an exit code.

Run as `python -m hyle_deploy.probe --to HOST:PORT [--service NAME] [--ca …]`. Exits 0 when it serves and 1 otherwise.
Kubernetes' own gRPC probe knows no client certificates, which an agent beyond loopback always asks for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hyle_errors import HyleError

from hyle_deploy.channel import Tls, open_channel
from hyle_deploy.failures import translated
from hyle_deploy.options import add_agent_options

__all__ = ["health", "main"]


def health(channel: grpc.Channel, address: str, service: str, timeout_s: float) -> str:
    """Return the health of a service: `SERVING`, `NOT_SERVING`, `SERVICE_UNKNOWN` or `UNKNOWN`.

    Args:
        channel: An open channel to the agent.
        address: Its HOST:PORT, for messages.
        service: A model's name, or "" for the agent as a whole.
        timeout_s: Longest wait, in seconds.

    Raises:
        HyleError: No answer came, or the service is not known there.
    """
    with translated(address):
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=timeout_s
        )
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(argv: Sequence[str] | None = None) -> int:
    """Probe once.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        0 when the service is `SERVING`, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m hyle_deploy.probe", description="Ask an agent's health service.")
    add_agent_options(parser)
    parser.add_argument("--service", default="", metavar="NAME", help="a model's name; the agent as a whole by default")
    args = parser.parse_args(argv)
    tls = Tls(args.ca, args.cert, args.key) if args.tls or args.ca or args.cert or args.key else None
    try:
        with open_channel(args.to, tls) as channel:
            state = health(channel, args.to, args.service, args.timeout)
    except HyleError as error:
        state = str(error)
    print(state, file=sys.stderr)
    return 0 if state == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
