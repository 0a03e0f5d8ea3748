"""Which engine serves: the completion queue if it works here, grpcio's public asyncio server otherwise."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import Protocol

from hyle_agent.address import Address
from hyle_agent.config import Tls
from hyle_agent.engine import Engine, Service

__all__ = ["TESTED", "find_engine"]

_LOG = logging.getLogger(__name__)

# grpcio's releases whose private interface the completion-queue engine was tested on: from, and below.
TESTED = ((1, 85), (1, 90))


class MakeEngine(Protocol):
    """Makes an engine."""

    def __call__(
        self, services: Sequence[Service], address: Address, *, tls: Tls | None, max_message_bytes: int
    ) -> Engine:
        """Make it; it listens once it is started."""
        ...


def find_engine(name: str) -> MakeEngine:
    """Return what makes an engine.

    Args:
        name: `completion-queue`, `aio`, or `auto`, which takes the first if it answers a call of its own.
    """
    if name == "completion-queue" or (name == "auto" and _completion_queue_works()):
        from hyle_agent.cq_engine import CqEngine

        return CqEngine
    from hyle_agent.aio_engine import AioEngine

    return AioEngine


def _completion_queue_works() -> bool:
    found = version("grpcio")
    release = tuple(int(part) for part in found.split(".")[:2])
    if not TESTED[0] <= release < TESTED[1]:
        _LOG.warning("grpcio %s is outside the range that the completion-queue engine was tested on", found)
        return False
    try:
        importlib.import_module("hyle_agent.cq_self_test").answers()
    except Exception as error:
        _LOG.warning("the completion-queue engine failed its self-test: %s", type(error).__name__)
        return False
    return True
