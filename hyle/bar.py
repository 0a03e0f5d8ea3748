"""A live bar of training on a terminal: steps, time left, loss, accuracy, passes; a plain line without rich."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Bar"]


class Bar:
    """One bar on stderr, drawn by rich."""

    def __init__(self) -> None:
        self._live: Any = None
        self._task: Any = None
        try:
            from rich.console import Console as Rich
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        except ModuleNotFoundError:
            return
        words = TextColumn("{task.description}"), TextColumn("{task.fields[told]}")
        columns = (words[0], BarColumn(), TimeRemainingColumn(), words[1])
        self._live = Progress(*columns, console=Rich(file=sys.stderr), transient=True)

    def show(self, text: str) -> None:
        """Draw a line that carries numbers (`hyle_compiler.progress.Advance`)."""
        what, _, rest = text.partition(": ")
        _, _, told = rest.partition(", ")
        if self._live is None:
            print(f"\r\x1b[2K{text[:200]}", end="", file=sys.stderr, flush=True)
            return
        total, done = getattr(text, "total", 0) or None, getattr(text, "done", 0)
        if self._task is None:
            self._live.start()
            self._task = self._live.add_task(what, total=total, told=told)
        self._live.update(self._task, completed=done, total=total, told=told)

    def stop(self) -> None:
        """End it; the cursor is at the beginning of a line."""
        if self._live is None:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
        else:
            self._live.stop()
