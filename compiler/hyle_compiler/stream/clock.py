"""How long it still takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from hyle_compiler.progress import Counted

__all__ = ["Clock"]


class Clock:
    """Tells the caller of a long piece of work how much of it is done and how long the rest will take.

    Args:
        total: All of the work, in any unit.
        tell: Told a line of text.
    """

    def __init__(self, total: int, tell: Callable[[str], None]) -> None:
        self._total, self._tell = max(total, 1), tell
        self._done, self._begun = 0, time.monotonic()

    def step(self, what: str, amount: int) -> None:
        """Say that `what` begins, of which there is `amount`; with no words nothing is told."""
        left = ""
        if self._done:
            spent = time.monotonic() - self._begun
            left = f", {_words(spent / self._done * (self._total - self._done))} left"
        if what:
            share = 100 * self._done // self._total
            text = f"compiling layer by layer: {what}, {share} % done{left}"
            self._tell(Counted(text, done=share, total=100))
        self._done += amount


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
