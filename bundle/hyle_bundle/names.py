"""Which names a bundle's files may have, and the one order in which they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hyle_errors import CallerError

__all__ = ["MANIFEST_NAME", "MAX_FILES", "SIGNATURE_NAME", "FileNameError", "canonical_order", "check_names"]

MANIFEST_NAME = "bundle.json"
SIGNATURE_NAME = "signature.dsse.json"
MAX_FILES = 4096
MAX_NAME_BYTES = 255

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class FileNameError(CallerError):
    """A set of file names that no bundle may have."""


def canonical_order(names: Iterable[str]) -> list[str]:
    """Return the names as a bundle orders them: manifest first, signature last, the others sorted."""
    return sorted(names, key=lambda name: (name != MANIFEST_NAME, name == SIGNATURE_NAME, name))


def check_names(names: Sequence[str]) -> None:
    """Refuse names that could leave the folder they are extracted to, or that could hide one another.

    Raises:
        FileNameError: A name is not relative ASCII of letters, digits, `._-/`, is longer than 255 bytes, occurs twice
            (letter case ignored), or is a folder of another; or there are more than 4096.
    """
    if len(names) > MAX_FILES:
        raise _refusal(f"{len(names)} files are more than the {MAX_FILES} that a bundle may hold.")
    taken: set[str] = set()
    folders: set[str] = set()
    for name in names:
        _check_spelling(name)
        folded = name.lower()
        if folded in taken:
            raise _refusal(f"The file name {name!r} occurs twice (letter case ignored).")
        taken.add(folded)
        parts = folded.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    both = sorted(taken & folders)
    if both:
        raise _refusal(f"{both[0]!r} is both a file and a folder.")


def _check_spelling(name: str) -> None:
    if len(name) > MAX_NAME_BYTES or _NAME.fullmatch(name) is None:
        raise _refusal(f"The file name {name[:300]!r} is not allowed in a bundle.")


def _refusal(message: str) -> FileNameError:
    return FileNameError(
        message, remedy="Use relative names of ASCII letters, digits, '.', '_', '-' and '/', each once."
    )
