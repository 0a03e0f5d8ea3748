"""The one table from errors to gRPC status; an unexpected exception's text never leaves the process."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass

import grpc
from hyle_errors import CallerError, HyleError
from hyle_protos.control import failure_pb2
from hyle_substrates.driver import DeviceError

from hyle_agent import errors

__all__ = ["REMEDY_KEY", "Refusal", "refusal_of"]

REMEDY_KEY = "hyle-remedy-bin"
RETRY_AFTER_S = 0.05
_LONGEST = 1000

_LOG = logging.getLogger(__name__)

_TABLE: tuple[tuple[type[HyleError], grpc.StatusCode], ...] = (
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.ForbiddenError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.UntrustedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.LeaseHeldError, grpc.StatusCode.ABORTED),
    (errors.LeaseOverError, grpc.StatusCode.FAILED_PRECONDITION),
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call ends: status, the sentence, and trailers (the remedy; when to try again)."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, bytes], ...] = ()


def refusal_of(error: BaseException) -> Refusal:
    """Return how a call ends that raised `error`.

    What is no `HyleError` is logged under a fresh id, without its text, and only the id is told.
    """
    for kind, code in _TABLE:
        if isinstance(error, kind):
            return Refusal(code, _short(error.message), _trailers(error, code))
    incident = uuid.uuid4().hex[:12]
    _LOG.error("incident %s: %s", incident, _trace(error))
    message = f"The agent failed; its log says why under incident {incident}."
    return Refusal(grpc.StatusCode.INTERNAL, message)


def _trailers(error: HyleError, code: grpc.StatusCode) -> tuple[tuple[str, bytes], ...]:
    remedy = (REMEDY_KEY, _short(error.remedy).encode())
    if isinstance(error, errors.MaintenanceError):
        after_s = error.retry_after_s
    elif isinstance(error, errors.OverloadError):
        after_s = RETRY_AFTER_S
    else:
        return (remedy,)
    delay = failure_pb2.RetryDelay(seconds=int(after_s), nanos=int(after_s % 1.0 * 1e9))
    detail = failure_pb2.FailureDetail(
        type_url="type.googleapis.com/google.rpc.RetryInfo",
        value=failure_pb2.RetryInfo(retry_delay=delay).SerializeToString(),
    )
    status = failure_pb2.FailureStatus(code=code.value[0], message=_short(error.message), details=[detail])
    return (remedy, ("grpc-status-details-bin", status.SerializeToString()))


def _short(text: str) -> str:
    """Cut a sentence to what fits among a call's trailers: clients take 8 KiB of them, where a byte may need three."""
    data = text.encode(errors="replace")
    return text if len(data) <= _LONGEST else data[:_LONGEST].decode(errors="ignore") + " …"


def _trace(error: BaseException) -> str:
    """Name the exception and where it was raised, without its text, which may hold values."""
    places, frame = [], error.__traceback__
    while frame is not None:
        places.append(f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}")
        frame = frame.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-4:])}"
