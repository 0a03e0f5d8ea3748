"""Writes that are on the disk when they return, and the words for when they cannot be."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyle_agent.errors import StoreError, StoreFullError

__all__ = [
    "FULL",
    "explained",
    "link",
    "make_folder",
    "move",
    "remove_tree",
    "replace_file",
    "sync_directory",
    "write_file",
]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says of `path` into a sentence and a remedy.

    Raises:
        StoreFullError: No room is left.
        StoreError: Anything else that the operating system refused.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            message = f"No room is left on the disk of the store {path}."
            raise StoreFullError(message, remedy="Remove a model or free some space, then install again.") from error
        message = f"The store {path} cannot be used: {error.strerror}."
        raise StoreError(message, remedy="Check that the folder exists and that the agent may write it.") from error


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each with a durable name; one that is there gets its name made durable."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_folder(path.parent)
        path.mkdir(exist_ok=True)
    with contextlib.suppress(
        PermissionError
    ):  # whoever made it made sure of it: the agent may not even list its parent
        sync_directory(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and make its content durable; its name is durable once its folder is synced."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in the place of a file: after a crash there is the old content or the new, whole."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        write_file(fresh, data)
        os.replace(fresh, path)  # noqa: PTH105 - one module-level name for every step that tests interrupt
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def link(source: Path, target: Path) -> None:
    """Give a file a second name."""
    os.link(source, target)


def move(source: Path, target: Path) -> None:
    """Rename, within one file system, and make the new name durable."""
    os.rename(source, target)  # noqa: PTH104 - as above
    sync_directory(target.parent)


def remove_tree(path: Path) -> None:
    """Remove a folder and all that is in it, or a file; nothing happens if it is not there, and no link is followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path, ignore_errors=False)
