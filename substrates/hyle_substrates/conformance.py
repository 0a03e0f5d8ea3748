"""The conformance suite: what every substrate and driver must do, checked on the very thing.

Third parties run it with `hyle check-substrate NAME` and `hyle check-driver NAME`, or from pytest with `run`. A check
is a function that returns nothing, or raises `ViolationError` with what is wrong, or `Skipped` with why it does not
apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hyle_errors import HyleError, InternalError

__all__ = ["ERROR_RATE", "Finding", "Rig", "Skipped", "Subject", "ViolationError", "demand", "refused", "run"]

ERROR_RATE = 1e-6
"""How often a statistical check of a device that keeps the contract may fail."""


class ViolationError(InternalError):
    """The contract is broken."""


class Skipped(Exception):  # noqa: N818
    """The check does not apply here; the text says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `passed`, `failed` or `skipped`, and why."""

    check: str
    outcome: str
    reason: str = ""


class Rig(Protocol):
    """Lets the suite take a device away and give it back."""

    def unplug(self) -> None:
        """Take it away."""
        ...

    def replug(self) -> None:
        """Give it back, as it is after power-up; returns when it can be reached."""
        ...

    def freeze(self) -> None:
        """Let it be there and not answer."""
        ...

    def thaw(self) -> None:
        """Let it answer again."""
        ...


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subject(Generic[T]):
    """What is checked.

    Attributes:
        connect: Opens it; called again to see whether a second owner is refused.
        rig: Takes the device away, where something can.
        timeout_s: Time in which a call to a frozen device must fail.
    """

    connect: Callable[[], T]
    rig: Rig | None = None
    timeout_s: float = 30.0


def demand(condition: object, message: str) -> None:
    """Raise ViolationError with `message` unless the condition holds."""
    if not condition:
        raise ViolationError(message, remedy="Mend the driver or the profile; docs/add-a-driver.md says what is asked.")


def refused(call: Callable[[], object], what: str) -> None:
    """Raise ViolationError unless the call raises a HyleError."""
    try:
        call()
    except HyleError:
        return
    demand(False, f"{what} was not refused.")


def run(checks: Sequence[Callable[[T], None]], subject: T) -> list[Finding]:
    """Run checks one after the other.

    Returns:
        One finding for each check; an unexpected error is a failure too.
    """
    return [_one(check, subject) for check in checks]


def _one(check: Callable[[T], None], subject: T) -> Finding:
    name = check.__name__.replace("_", " ")
    try:
        check(subject)
    except Skipped as why:
        return Finding(name, "skipped", str(why))
    except HyleError as error:
        return Finding(name, "failed", f"{error.message}{_cause(error)}")
    except Exception as error:
        return Finding(name, "failed", f"{type(error).__name__}: {error}")
    return Finding(name, "passed")


def _cause(error: HyleError) -> str:
    """What lies behind an error and is in no message: a driver's author needs the text of it."""
    cause = error.__cause__
    return "" if cause is None or isinstance(cause, OSError) else f" {type(cause).__name__}: {cause}"
