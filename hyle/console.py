"""What a command says to a person: progress and messages to stderr, tables to stdout, which `--json` silences."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from hyle.bar import Bar

__all__ = ["Console"]

EVERY_S = 5.0


class Console:
    """Messages and progress on stderr, tables on stdout.

    Args:
        quiet: Print no tables: the caller asked for JSON, and stdout is for the one document.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._last = ""
        self._said_s = 0.0
        self._bar: Bar | None = None

    def say(self, text: str) -> None:
        """Print one line."""
        self.done()
        print(text, file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Say what is being done now.

        On a terminal over the last such line, as a bar where the text carries numbers (`hyle_compiler.progress`). Else
        once for all before a colon, and with numbers every few seconds.
        """
        total = getattr(text, "total", None)
        if sys.stderr.isatty():
            if total is not None:
                self._bar = self._bar or Bar()
                self._bar.show(text)
                return
            self.done()
            print(f"\r\x1b[2K{text[:200]}", end="", file=sys.stderr, flush=True)
            return
        kind, now = text.partition(":")[0], time.monotonic()
        due = total is not None and now - self._said_s >= EVERY_S
        if kind != self._last or due:
            self._last, self._said_s = kind, now
            print(text if total is not None else kind, file=sys.stderr, flush=True)

    def done(self) -> None:
        """End the progress line."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()
        elif sys.stderr.isatty():
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; the first column to the left, the others to the right."""
        if self.quiet:
            return
        cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        rule = "  ".join("-" * width for width in widths)
        print("\n".join([*([title] if title else []), lines[0], rule, *lines[1:]]), flush=True)
