"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hyle_errors import CallerError

__all__ = ["OutputError", "replacing"]

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


class OutputError(CallerError):
    """An output that cannot be written; nothing was left behind and an older file stays as it was."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears at `path` only when all of it is on disk.

    The bytes go to a nameless file in the target's folder (a hidden one where the file system knows no nameless files),
    are synced, and take the name in one step, so that a crash at any moment leaves the old file or the new one.

    Args:
        path: The target; its folder must exist.

    Yields:
        The file to write to, binary and buffered.

    Raises:
        OutputError: The target cannot be written, or the disk is full.
    """
    if path.is_dir():
        raise OutputError(f"The output {path} is a folder.", remedy="Name a file in it.")
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        with _draft(folder, path) as file:
            yield file
    finally:
        os.close(folder)


@contextlib.contextmanager
def _draft(folder: int, path: Path) -> Iterator[BinaryIO]:
    name = f".{path.name[:200]}.{secrets.token_hex(8)}.tmp"
    try:
        descriptor, named = _open_draft(folder, name)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        file = os.fdopen(descriptor, "wb", buffering=1 << 20)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not named:
                os.link(f"/proc/self/fd/{file.fileno()}", name, src_dir_fd=folder, dst_dir_fd=folder)
            os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        finally:
            with contextlib.suppress(OSError):
                file.close()
    except OSError as error:
        _remove(folder, name)
        raise _refusal(path, error) from error
    except BaseException:
        _remove(folder, name)
        raise


def _open_draft(folder: int, name: str) -> tuple[int, bool]:
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o666, dir_fd=folder), False
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    return os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666, dir_fd=folder), True


def _remove(folder: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _refusal(path: Path, error: OSError) -> OutputError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OutputError(
        f"The output {path} cannot be written: {reason}.",
        remedy="Choose a folder that exists, that you may write to, and that has room.",
    )
