"""The one table from errors to gRPC status; an unexpected exception's text never leaves the process."""

from __future__ import annotations

import logging
import uuid

import grpc
from hyle_errors import CallerError, HyleError
from hyle_substrates.driver import DeviceError

from hyle_agent import errors

__all__ = ["status_of"]

_LOG = logging.getLogger(__name__)

_TABLE: tuple[tuple[type[HyleError], grpc.StatusCode], ...] = (
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.NotOfferedError, grpc.StatusCode.UNIMPLEMENTED),
    (errors.UntrustedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.UnfitError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.ConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.SelfTestError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.OverloadError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.StoreFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.ExpiredError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.NotReadyError, grpc.StatusCode.UNAVAILABLE),
    (DeviceError, grpc.StatusCode.UNAVAILABLE),
    (CallerError, grpc.StatusCode.INVALID_ARGUMENT),
    (HyleError, grpc.StatusCode.INTERNAL),
)


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Return the status and the words for a caller.

    Args:
        error: What was raised. One that is no `HyleError` is logged under a fresh id, and only the id is told.
    """
    for kind, code in _TABLE:
        if isinstance(error, kind):
            return code, str(error)
    incident = uuid.uuid4().hex[:12]
    _LOG.error("incident %s: %s", incident, _trace(error))
    return grpc.StatusCode.INTERNAL, f"The agent failed; its log says why under incident {incident}."


def _trace(error: BaseException) -> str:
    """Name the exception and where it was raised, without its text, which may hold values."""
    places, frame = [], error.__traceback__
    while frame is not None:
        places.append(f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}")
        frame = frame.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-4:])}"
