"""The conversation with an attached device, which is opened anew after it broke.

A link is the plain conversation with one device that is there; it may raise `DeviceError` or `OSError` at any moment
and is then thrown away. Any other exception counts as an answer that nobody understands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Generic, Protocol, TypeVar

import numpy as np
from hyle_errors import HyleError

from hyle_substrates.driver import BadAnswerError, DeviceAwayError, DeviceError, DeviceTimeoutError

__all__ = ["Link", "readings"]


class _Closable(Protocol):
    def close(self) -> None: ...


L = TypeVar("L", bound=_Closable)
T = TypeVar("T")


class Link(Generic[L]):
    """Opens a link when one is needed, and drops it when it fails.

    Args:
        open_link: Opens it.
        greet: Looks at every link that was opened after the first one, before anything else is said; raises if the
            device is not the one that was there.
    """

    def __init__(self, open_link: Callable[[], L], greet: Callable[[L], None]) -> None:
        self._open, self._greet = open_link, greet
        self._link: L | None = None
        self._met = self.closed = False

    def call(self, work: Callable[[L], T]) -> T:
        """Do a part of the conversation.

        Raises:
            DeviceError: The link was closed, the device did not answer, or its driver does not understand what it
                answered. The message holds no text of an unexpected exception, which may hold values.
            HyleError: What the driver raised.
        """
        self.check_open()
        try:
            return _guarded(lambda: work(self._linked()))
        except DeviceError:
            self._drop()
            raise

    def check_open(self) -> None:
        """Raise DeviceError if it was closed."""
        if self.closed:
            raise DeviceError("The device was closed.", remedy="Connect again.")

    def close(self) -> None:
        """Give the device back."""
        self.closed = True
        self._drop()

    def _linked(self) -> L:
        if self._link is None:
            self._link = self._open()
            if self._met:
                self._greet(self._link)
        self._met = True
        return self._link

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(DeviceError, OSError):
                link.close()


def readings(health: Mapping[str, float]) -> dict[str, float]:
    """Return a device's live readings as numbers; BadAnswerError names the one that is none."""
    for name, value in health.items():
        if not isinstance(value, (Real, np.bool_)):
            raise BadAnswerError(f"The reading {name!r} is no number.", remedy="Check the device and its driver.")
    return {name: float(value) for name, value in health.items()}


def _guarded(work: Callable[[], T]) -> T:
    """Name what is wrong, as `Link.call` says."""
    try:
        return work()
    except HyleError:
        raise
    except TimeoutError as error:
        raise DeviceTimeoutError(f"The device does not answer: {error}.", remedy="Check what it does.") from error
    except OSError as error:
        message = f"The device does not answer: {error}."
        raise DeviceAwayError(message, remedy="Check its power and its cable.") from error
    except Exception as error:
        message = f"The device sent what its driver does not understand ({type(error).__name__})."
        raise BadAnswerError(message, remedy="Check its firmware, and the driver.") from error
