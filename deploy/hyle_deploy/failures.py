"""One table from gRPC status to hyle's errors, each with what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from hyle_errors import CallerError, HyleError, InternalError

__all__ = ["AgentError", "AgentUnreachableError", "NotAllowedError", "RefusedError", "failure", "translated"]


class AgentError(InternalError):
    """The agent failed, or answered what its contract does not allow."""


class AgentUnreachableError(InternalError):
    """No answer came: nobody listens, the network is down, or the deadline passed."""


class NotAllowedError(CallerError):
    """The agent does not accept who is asking, or the caller does not accept the agent's certificate."""


class RefusedError(CallerError):
    """The agent understood the request and refused it."""


_CODE = grpc.StatusCode
_TABLE: dict[grpc.StatusCode, tuple[type[HyleError], str]] = {
    _CODE.CANCELLED: (AgentUnreachableError, "Run it again; the agent or a person ended the call."),
    _CODE.DEADLINE_EXCEEDED: (
        AgentUnreachableError,
        "See whether the agent is busy (`hyle status`), or allow more with --timeout.",
    ),
    _CODE.UNAVAILABLE: (
        AgentUnreachableError,
        "See that `hyle agent run` runs there, that the port is right, and whether it wants TLS (--ca).",
    ),
    _CODE.UNAUTHENTICATED: (NotAllowedError, "Give a certificate that the agent knows with --cert and --key."),
    _CODE.PERMISSION_DENIED: (
        NotAllowedError,
        "Have your key or certificate added to the agent's configuration.",
    ),
    _CODE.NOT_FOUND: (RefusedError, "List what the agent has with `hyle status`."),
    _CODE.INVALID_ARGUMENT: (RefusedError, "Compare the request with the model's inputs (`hyle inspect`)."),
    _CODE.FAILED_PRECONDITION: (RefusedError, "Look at the agent's state with `hyle status`."),
    _CODE.ALREADY_EXISTS: (RefusedError, "Look at what is installed with `hyle status`."),
    _CODE.OUT_OF_RANGE: (RefusedError, "Compare the request with the model's inputs (`hyle inspect`)."),
    _CODE.UNIMPLEMENTED: (
        RefusedError,
        "See that this is a hyle agent, and no older than this client.",
    ),
    _CODE.RESOURCE_EXHAUSTED: (AgentError, "Free space on the agent, or send fewer requests at once."),
    _CODE.ABORTED: (AgentError, "Run it again; another change was under way."),
    _CODE.DATA_LOSS: (AgentError, "Deploy the bundle again and look at the agent's log."),
    _CODE.INTERNAL: (AgentError, "Look at the agent's log."),
    _CODE.UNKNOWN: (AgentError, "Look at the agent's log."),
}
_REMEDY_KEY = "hyle-remedy-bin"


def _handshake_failed(details: str) -> bool:
    return any(word in details.lower() for word in ("ssl", "tls", "handshake", "certificate"))


def _own_remedy(error: grpc.RpcError) -> str | None:
    for key, value in error.trailing_metadata() or ():
        if key == _REMEDY_KEY:
            return bytes(value).decode("utf-8", "replace")
    return None


def failure(error: grpc.RpcError, address: str) -> HyleError:
    """Say what a failed call means.

    Args:
        error: What grpc raised; it is also the call that failed.
        address: The agent's, for the message.

    Returns:
        The error to raise, with the agent's own sentence and remedy where it sent them.
    """
    code, details = error.code(), (error.details() or "").strip()
    if code is _CODE.UNAVAILABLE and _handshake_failed(details):
        remedy = "Give the authority that signed its certificate with --ca, or no TLS option if it serves without."
        return NotAllowedError(f"The TLS handshake with the agent at {address} failed: {details}.", remedy=remedy)
    kind, remedy = _TABLE.get(code, (AgentError, "Look at the agent's log."))
    own = _own_remedy(error)
    if kind is AgentUnreachableError and own is None:
        verb = "did not answer in time" if code is _CODE.DEADLINE_EXCEEDED else "cannot be reached"
        return kind(f"The agent at {address} {verb} ({details or code.name}).", remedy=remedy)
    sentence = details or f"it answered {code.name}."
    # A remedy of the agent's own proves that it was reached.
    kind = AgentError if kind is AgentUnreachableError else kind
    return kind(f"The agent at {address} refused: {sentence}", remedy=own or remedy)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn every grpc error of the block into a `HyleError`."""
    try:
        yield
    except grpc.RpcError as error:
        raise failure(error, address) from error
