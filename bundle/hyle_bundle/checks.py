"""Whether a bundle's files are the very files that its manifest and its signature list."""

from __future__ import annotations

import hashlib
import mmap
import zlib
from collections.abc import Mapping
from pathlib import Path

from hyle_errors import CallerError

from hyle_bundle.layout import Placed
from hyle_bundle.manifest import Manifest
from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME
from hyle_bundle.statement import Statement

__all__ = ["MAX_METADATA_BYTES", "BundleError", "check_content", "check_files", "check_signed_files", "read_metadata"]

MAX_METADATA_BYTES = 64 << 20

_STEP = 8 << 20


class BundleError(CallerError):
    """A bundle that cannot be opened, lacks a file, has one too many, or has one that is not what it should be."""


def read_metadata(view: memoryview, places: Mapping[str, Placed], name: str, path: Path) -> bytes:
    """Return a copy of the manifest or the signature.

    Raises:
        BundleError: It is missing, larger than 64 MiB, or its CRC-32 differs.
    """
    placed = places.get(name)
    if placed is None:
        raise BundleError(f"{path.name} has no {name}.", remedy="Compile the bundle again.")
    if placed.entry.size > MAX_METADATA_BYTES:
        raise BundleError(
            f"{name} in {path.name} is larger than {MAX_METADATA_BYTES} bytes.", remedy="Compile it again."
        )
    data = bytes(view[placed.data : placed.data + placed.entry.size])
    if zlib.crc32(data) != placed.entry.crc32:
        raise _damaged(name, path, "CRC-32")
    return data


def check_files(manifest: Manifest, places: Mapping[str, Placed], path: Path) -> None:
    """Check that the files are those that the manifest lists, of the sizes that it lists.

    Raises:
        BundleError: One is missing, unlisted or of another size.
    """
    present, wanted = set(places) - {MANIFEST_NAME, SIGNATURE_NAME}, set(manifest.files)
    for word, names in (("lacks", wanted - present), ("has the unlisted file", present - wanted)):
        if names:
            raise BundleError(f"{path.name} {word} {min(names)}.", remedy="Fetch the bundle again or compile it again.")
    for name, entry in manifest.files.items():
        if places[name].entry.size != entry.size:
            raise _damaged(name, path, "size")


def check_signed_files(manifest: Manifest, statement: Statement) -> None:
    """Check that a signed statement is about this manifest's model and files.

    Raises:
        BundleError: It is about others.
    """
    listed = {name: entry.sha256 for name, entry in manifest.files.items()}
    signed = {name: digest for name, digest in statement.digests.items() if name != MANIFEST_NAME}
    if listed != signed or statement.subject[0].name != manifest.name:
        raise BundleError(
            f"{SIGNATURE_NAME} and {MANIFEST_NAME} do not list the same files.", remedy="Sign the bundle again."
        )


def check_content(mapped: mmap.mmap, view: memoryview, placed: Placed, sha256: str, path: Path) -> None:
    """Check one file's CRC-32 and SHA-256, keeping no more than 8 MiB of it in memory.

    Raises:
        BundleError: One of them differs.
    """
    crc32, digest = 0, hashlib.sha256()
    end = placed.data + placed.entry.size
    for start in range(placed.data, end, _STEP):
        stop = min(start + _STEP, end)
        crc32 = zlib.crc32(view[start:stop], crc32)
        digest.update(view[start:stop])
        _forget(mapped, start, stop)
    if digest.hexdigest() != sha256:
        raise _damaged(placed.entry.name, path, "SHA-256")
    if crc32 != placed.entry.crc32:
        raise _damaged(placed.entry.name, path, "CRC-32")


def _forget(mapped: mmap.mmap, start: int, stop: int) -> None:
    """Let the pages just hashed leave this process; they come back from the file when they are read."""
    first = start - start % mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, first, stop - first)


def _damaged(name: str, path: Path, what: str) -> BundleError:
    return BundleError(
        f"{name} in {path.name} is not what the bundle says: its {what} differs.",
        remedy="Fetch the bundle again or compile it again.",
    )
