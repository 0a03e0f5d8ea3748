"""Who reads the sockets: threads of grpc's own, or whoever waits at a completion queue anyway.

By default grpc reads in a pool of threads that hand each piece on to one another, and at last to the one that waits.
Without `event_engine_listener`, one of its experiments, the waiting thread reads itself.
"""

from __future__ import annotations

import os
import sys

__all__ = ["poll_here", "polled_here"]

_VARIABLE = "GRPC_EXPERIMENTS"
_FLAG = "event_engine_listener"
_OFF = f"-{_FLAG}"


def poll_here() -> None:
    """Let whoever waits at a completion queue read its sockets.

    Only before grpc is imported, which reads the variable then and never again; afterwards, and where an operator set
    the flag, everything stays as it is.
    """
    flags = _flags()
    if not {_FLAG, _OFF} & set(flags) and "grpc._cython.cygrpc" not in sys.modules:
        os.environ[_VARIABLE] = ",".join([*flags, _OFF])


def polled_here() -> bool:
    """Whether whoever waits at a completion queue reads its sockets."""
    return _OFF in _flags()


def _flags() -> list[str]:
    return [flag for flag in os.environ.get(_VARIABLE, "").split(",") if flag]
