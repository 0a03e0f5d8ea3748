"""Room kept on the store's disk, so that a full one keeps no slot from going back.

A file is replaced by writing the new one first, for which a full disk has no room. The reserve is then given up for it;
what was replaced leaves as much room as the new one took, and the reserve is filled again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from hyle_agent import disk

__all__ = ["Reserve"]

_NAME = "reserve"
# A state or floors file, its name, and what a file system adds to them.
_BYTES = 16 * 1024


class Reserve:
    """The reserve of one store.

    Args:
        root: The store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / _NAME

    def fill(self) -> None:
        """Take the room, if the disk has it and it is not taken already."""
        with contextlib.suppress(OSError):
            if self._path.is_file() and self._path.stat().st_size == _BYTES:
                return
            self._path.unlink(missing_ok=True)
            try:
                disk.write_file(self._path, bytes(_BYTES))
            except OSError:
                self._path.unlink(missing_ok=True)

    def replace_file(self, path: Path, data: bytes) -> None:
        """Put `data` in the place of a file as `disk.replace_file` does, in the reserve's room if there is no other.

        Raises:
            OSError: It cannot be written with that either; the old content is there.
        """
        try:
            disk.replace_file(path, data)
        except OSError as error:
            if error.errno not in disk.FULL or not self._give_up():
                raise
            disk.replace_file(path, data)
        finally:
            self.fill()

    def _give_up(self) -> bool:
        if not self._path.is_file():
            return False
        self._path.unlink()
        return True
