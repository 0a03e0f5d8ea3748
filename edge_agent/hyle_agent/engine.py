"""What serves calls: a table of methods on one side, a transport on the other, and this line between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from google.protobuf.message import DecodeError

from hyle_agent.errors import RequestError

__all__ = ["Answer", "Call", "Caller", "Engine", "Fast", "Method", "Role", "Service", "parse", "serialize"]


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of its caller; `deadline` is `time.monotonic()` at which nobody waits any more."""

    deadline: float | None


class Caller(Protocol):
    """Anything that knows what a `Call` does."""

    @property
    def deadline(self) -> float | None:
        """See `Call`."""
        ...


Role = Literal["query", "operate"]


Handler = Callable[[Any, Call], Any]
Answer = Callable[[bytes | None, BaseException | None], None]


class Fast(Protocol):
    """A unary method without coroutines: requests are begun as they come, and flushed when no more came."""

    @property
    def full(self) -> bool:
        """Whether a flush is due although more may have come."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether what a flush executes takes every core there is."""
        ...

    def begin(self, request: Any, call: Caller, answer: Answer) -> Any:
        """Check a request and keep it for the next flush.

        Args:
            request: The message.
            call: Its caller.
            answer: Told the encoded response or the error, once, on any thread.

        Returns:
            What `cancel` takes.

        Raises:
            HyleError: The request is refused; `answer` is not told.
        """
        ...

    def flush(self) -> None:
        """Execute what was begun, here or elsewhere."""
        ...

    def cancel(self, begun: Any) -> None:
        """Forget a request whose caller is gone."""
        ...


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
        role: What the caller's certificate must allow, where callers must have one; `operate` allows `query` too.
        fast: The same method without coroutines, for an engine that can; `handle` is for the others.
    """

    request: type[Any]
    response: type[Any]
    handle: Handler
    streams_in: bool = False
    streams_out: bool = False
    role: Role = "query"
    fast: Fast | None = None


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


def parse(method: Method, data: bytes) -> Any:
    """Read a request message.

    Raises:
        RequestError: It is no protobuf message of the method's class.
    """
    try:
        return method.request.FromString(data)
    except DecodeError as error:
        name = method.request.DESCRIPTOR.name
        message = f"The message: expected a protobuf {name}, got {len(data)} bytes that are none."
        raise RequestError(message, remedy="Make the client from the protocol's .proto files.") from error


def serialize(response: Any) -> bytes:
    """Write a response message; bytes are written already."""
    return response if type(response) is bytes else response.SerializeToString()
