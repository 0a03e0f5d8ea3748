"""One owner for one device: a lock on this machine that the kernel gives back however its owner ends."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from hyle_substrates.driver import DeviceError

__all__ = ["Claim"]


class Claim:
    """Ownership of a device until `release`, or the end of the process.

    Args:
        resource: Whatever names the device on this machine: a port, an address.

    Raises:
        DeviceError: Somebody owns it.
    """

    def __init__(self, resource: str) -> None:
        name = hashlib.sha256(resource.encode()).hexdigest()[:32]
        path = Path(tempfile.gettempdir()) / f"hyle-device-{os.getuid()}-{name}.lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise DeviceError(f"{resource} has an owner already.", remedy="Stop the other program first.") from error

    def release(self) -> None:
        """Let another owner have it; a second release does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
