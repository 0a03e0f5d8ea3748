"""What a file of a bundle is made from, and its size and checksums, read once in chunks."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyle_errors import CallerError

__all__ = ["CHUNK_BYTES", "Content", "InputError", "Source", "chunks", "measure"]

CHUNK_BYTES = 1 << 20

Source = Path | bytes | memoryview


class InputError(CallerError):
    """A file to be bundled that cannot be read."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds.

    Attributes:
        size: Bytes.
        crc32: The ZIP checksum.
        sha256: The digest, hexadecimal.
    """

    size: int
    crc32: int
    sha256: str


def chunks(source: Source) -> Iterator[bytes | memoryview]:
    """Give a source's bytes in pieces of at most 1 MiB.

    Raises:
        InputError: The file cannot be read.
    """
    if not isinstance(source, Path):
        view = memoryview(source).cast("B")
        yield from (view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES))
        return
    try:
        with source.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise InputError(
            f"{source} cannot be read: {error.strerror}.", remedy="Check the path and its permissions."
        ) from error


def measure(source: Source) -> Content:
    """Return a source's size and checksums.

    Raises:
        InputError: The file cannot be read.
    """
    size, crc32, sha256 = 0, 0, hashlib.sha256()
    for chunk in chunks(source):
        size += len(chunk)
        crc32 = zlib.crc32(chunk, crc32)
        sha256.update(chunk)
    return Content(size, crc32, sha256.hexdigest())
