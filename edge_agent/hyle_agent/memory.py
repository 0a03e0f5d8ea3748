"""Memory that only the start, an install or a programming needed, given back to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

__all__ = ["collect", "give_back"]

_DONT_NEED = 4
_RARELY = (10_000, 20, 20)
_MAPS = Path("/proc/self/maps")


def collect() -> None:
    """Free what nothing refers to any more, a program's sessions and files among it."""
    gc.unfreeze()
    gc.collect()
    # What is alive now stays: looking through it again and again would only make requests wait.
    gc.freeze()


def give_back() -> None:
    """Return freed heap pages, and drop the code pages of libraries that will not be executed again.

    Code pages are clean copies of files: those still needed come back from the page cache at their next use.
    """
    collect()
    gc.set_threshold(*_RARELY)
    try:
        libc = ctypes.CDLL(None)
        libc.malloc_trim(ctypes.c_size_t(0))
        advise = libc.madvise
    except (OSError, AttributeError):
        return
    for start, size in _code(_MAPS):
        advise(ctypes.c_void_p(start), ctypes.c_size_t(size), _DONT_NEED)


def _code(maps: Path) -> Iterator[tuple[int, int]]:
    """Yield start and size of each mapping that is a file's, executable and never written."""
    for line in maps.read_text().splitlines():
        span, rights, _, _, inode, *_ = line.split()
        if rights == "r-xp" and inode != "0":
            start, end = (int(part, 16) for part in span.split("-"))
            yield start, end - start
