"""What an agent refuses or fails at; `status.py` says which gRPC status each becomes."""

from __future__ import annotations

from hyle_errors import CallerError, InternalError

__all__ = [
    "ConfigError",
    "ConflictError",
    "ExpiredError",
    "ForbiddenError",
    "InternalAnswerError",
    "LeaseHeldError",
    "LeaseOverError",
    "MaintenanceError",
    "NotFoundError",
    "NotReadyError",
    "OverloadError",
    "RequestError",
    "SelfTestError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "UnfitError",
    "UntrustedError",
]


class ConfigError(CallerError):
    """A configuration that does not say what it must; the message names the field."""


class RequestError(CallerError):
    """A malformed request; the message names the field, what was expected and what was got."""


class NotFoundError(CallerError):
    """A model, version or slot that is not installed here."""


class UntrustedError(CallerError):
    """A bundle without a signature by a key that this agent trusts."""


class ForbiddenError(CallerError):
    """A caller whose certificate does not allow what it asks for."""


class UnfitError(CallerError):
    """A bundle that was compiled for another kind of device."""


class ConflictError(CallerError):
    """Something that the present state forbids: an older bundle, a digest that is not installed."""


class StoreLockedError(CallerError):
    """A store that another agent owns."""


class NotReadyError(InternalError):
    """A model that is installed and cannot answer now, or an agent that is stopping."""


class MaintenanceError(NotReadyError):
    """A model whose device is lent; `retry_after_s` says when to ask again."""

    def __init__(
        self, message: str, *, remedy: str = "Ask again then, or see `hyle status`.", retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s


class LeaseHeldError(CallerError):
    """A device that somebody holds already; the message says who and until when."""


class LeaseOverError(CallerError):
    """A lease that is over, or never was."""


class OverloadError(InternalError):
    """The queue of the device is full."""


class ExpiredError(InternalError):
    """The caller's deadline passed before the device was free."""


class SelfTestError(InternalError):
    """Golden vectors that did not come back within their tolerance."""


class StoreError(InternalError):
    """The store's folder cannot be read or written, or holds what no agent wrote."""


class StoreFullError(StoreError):
    """No room left for what is to be installed."""


class InternalAnswerError(InternalError):
    """A program that did not return what its manifest promises."""
