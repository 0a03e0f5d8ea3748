"""The one error base of hyle: a sentence that says what is wrong, and a remedy that says what to do next."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CallerError", "HyleError", "InternalError", "did_you_mean"]


class HyleError(Exception):
    """Something that went wrong and what to do about it.

    Args:
        message: One sentence that names the thing, what was expected and what was got.
        remedy: What the reader should do next; an imperative sentence.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


class CallerError(HyleError):
    """The caller's mistake: bad input, bad option, bad file; exit code 2."""

    exit_code = 2


class InternalError(HyleError):
    """Our fault or the environment's; exit code 1."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that begins a remedy, where a word is close to a known one; else nothing.

    Args:
        word: What was written.
        known: What could have been meant.

    Returns:
        `Did you mean 'NAME'? ` with a space behind it, or an empty string.
    """
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""
