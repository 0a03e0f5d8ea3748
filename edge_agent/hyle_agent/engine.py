"""What serves calls: a table of methods on one side, a transport on the other, and this line between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Call", "Engine", "Method", "Service"]


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of its caller; `deadline` is `time.monotonic()` at which nobody waits any more."""

    deadline: float | None


Handler = Callable[[Any, Call], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One call of a service.

    Attributes:
        request: Class of the request message.
        response: Class of the response message.
        handle: Answers: `async (request, call) -> response`; with `streams_in` the request is an async iterator of
            messages, with `streams_out` the handler is an async generator. What it raises becomes a status.
        streams_in: Whether the caller sends many messages.
        streams_out: Whether many messages go back.
    """

    request: type[Any]
    response: type[Any]
    handle: Handler
    streams_in: bool = False
    streams_out: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service by its full name, and its methods by theirs."""

    name: str
    methods: dict[str, Method]


class Engine(Protocol):
    """A transport that serves methods."""

    async def start(self) -> int:
        """Listen and serve; returns the port.

        Raises:
            HyleError: The address cannot be listened on, or the certificates cannot be used.
        """
        ...

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait up to `grace_s` for those in progress, then end them."""
        ...
