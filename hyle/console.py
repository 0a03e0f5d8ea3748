"""What a command says to a person: progress and messages to stderr, tables to stdout, silent under `--json`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["Console"]


class Console:
    """Messages and progress on stderr, tables on stdout.

    Args:
        quiet: Say nothing (the caller asked for JSON and reads stdout only).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._last = ""

    def say(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Say what is being done now: on a terminal over the last such line, else once for all before a colon."""
        if self.quiet:
            return
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{text[:200]}", end="", file=sys.stderr, flush=True)
        elif (kind := text.partition(":")[0]) != self._last:
            self._last = kind
            print(kind, file=sys.stderr, flush=True)

    def done(self) -> None:
        """End the progress line."""
        if not self.quiet and sys.stderr.isatty():
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
