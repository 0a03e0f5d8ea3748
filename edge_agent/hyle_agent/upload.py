"""Receiving blobs: only those that a trusted plan announced, each kept once its digest is proven."""

from __future__ import annotations

import hashlib
import os
import uuid

from hyle_bundle.manifest import FileEntry, Manifest

from hyle_agent import disk
from hyle_agent.errors import ConflictError, RequestError, StoreFullError
from hyle_agent.store import Store

__all__ = ["Uploads"]


class Uploads:
    """What may be uploaded, and the drafts of what is being received.

    Args:
        store: Where proven blobs go.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._announced: dict[str, FileEntry] = {}
        self._plans: dict[str, frozenset[str]] = {}

    def announce(self, manifest: Manifest) -> dict[str, FileEntry]:
        """Allow the missing files of a trusted bundle, and return them by digest.

        What an earlier plan for the same model let in and nothing uses is let go, so that bundles which are sent and
        never installed take no more room than one of each model.

        Raises:
            StoreFullError: They would not fit on the disk.
        """
        missing = self._store.missing(manifest)
        needed = sum(entry.size for entry in missing.values())
        with disk.explained(self._store.root):
            room = os.statvfs(self._store.root)
        if needed > room.f_bavail * room.f_frsize:
            message = f"The bundle lacks {needed} bytes here and the disk has room for {room.f_bavail * room.f_frsize}."
            raise StoreFullError(message, remedy="Remove a model or free some space, then install again.")
        self._supersede(manifest)
        self._announced.update(missing)
        return missing

    def begin(self, digest: str, size: int) -> Receipt:
        """Start to receive one blob.

        Raises:
            ConflictError: No plan announced this digest with this size.
        """
        entry = self._announced.get(digest)
        if entry is None or entry.size != size:
            message = f"No plan announced a file with digest {digest[:64]!r} and {size} bytes."
            raise ConflictError(message, remedy="Ask for a plan first, then upload what it names.")
        return Receipt(self._store, digest, size)

    def _supersede(self, manifest: Manifest) -> None:
        wanted = frozenset(entry.sha256 for entry in manifest.files.values())
        before = self._plans.get(manifest.name, frozenset())
        self._plans[manifest.name] = wanted
        stale = before - frozenset().union(*self._plans.values())
        for digest in stale:
            self._announced.pop(digest, None)
        if stale:
            self._store.drop(stale)


class Receipt:
    """One blob on its way in; `finish` proves and keeps it, `abandon` leaves nothing.

    Args:
        store: Where it goes.
        digest: The SHA-256 that it must have, hexadecimal.
        size: The bytes that it must have.
    """

    def __init__(self, store: Store, digest: str, size: int) -> None:
        self._store = store
        self._digest = digest
        self._left = size
        self._sum = hashlib.sha256()
        self._path = store.staging / f"upload-{uuid.uuid4().hex}"
        with disk.explained(store.root):
            self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            RequestError: There are more than were announced.
            StoreFullError: No room is left.
        """
        self._left -= len(data)
        if self._left < 0:
            message = f"Blob {self._digest} is longer than announced."
            raise RequestError(message, remedy="Send exactly the file's bytes.")
        self._sum.update(data)
        view = memoryview(data)
        with disk.explained(self._store.root):
            while view:
                view = view[os.write(self._handle, view) :]

    def finish(self) -> None:
        """Prove length and digest, make the bytes durable and keep them.

        Raises:
            RequestError: It is shorter than announced, or another file.
        """
        if self._left or self._sum.hexdigest() != self._digest:
            got = f"{self._left} bytes are missing" if self._left else f"its digest is {self._sum.hexdigest()}"
            raise RequestError(f"Blob {self._digest} is not what was announced: {got}.", remedy="Send the file again.")
        with disk.explained(self._store.root):
            os.fsync(self._handle)
        os.close(self._handle)
        self._handle = -1
        self._store.keep(self._path, self._digest)

    def abandon(self) -> None:
        """Leave nothing behind; after `finish` this does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._path.unlink(missing_ok=True)
