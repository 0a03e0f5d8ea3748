"""Slots that survive a power cut: content-addressed blobs, folders of hard links, one state file a model.

    lock                     held by the agent that owns the store
    blobs/<sha256>           every file of every slot, once
    staging/                 what is being received or built; emptied at start
    models/<name>/<digest>/  a slot's files under their own names, hard links to blobs
    models/<name>/state.json which digests are slots, which one serves and whether on trial: the only truth
    floors.json              the lowest counter that each model may be installed with (`hyle_agent.floors`)
    reserve                  room for the next state where the disk is full (`hyle_agent.reserve`)

A folder that no state file names, and a blob that no folder links, is debris and is removed at start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from hyle_bundle.manifest import FileEntry, Manifest
from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME, check_names

from hyle_agent import disk
from hyle_agent.errors import ConflictError, StoreError, StoreLockedError
from hyle_agent.floors import Floors
from hyle_agent.reserve import Reserve
from hyle_agent.slots import ModelState, decode_state, encode_state

__all__ = ["Store"]

STATE_NAME = "state.json"

_LOG = logging.getLogger(__name__)


class Store:
    """The one owner of a store's folder.

    Args:
        root: The folder; made if it is not there.

    Raises:
        StoreLockedError: Another agent owns it.
        StoreError: It cannot be read or written, or a state file is not one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.staging = root / "staging"
        self._models = root / "models"
        self._incoming: set[str] = set()
        self._unwritten: dict[str, ModelState] = {}
        self._reserve = Reserve(root)
        with disk.explained(root):
            disk.make_folder(root)
            self._lock = _lock(root)
        try:
            with disk.explained(root):
                self._recover_if_writable()
            self.floors = Floors(root, self._reserve)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another agent own the store."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def models(self) -> dict[str, ModelState]:
        """Return every model's state, by name."""
        with disk.explained(self.root):
            return {path.name: self._state(path) for path in sorted(self._models.iterdir())}

    def folder(self, model: str, digest: str) -> Path:
        """Return the folder that holds, or would hold, a slot's files."""
        return self._models / model / digest

    def missing(self, manifest: Manifest) -> dict[str, FileEntry]:
        """Return the files of a bundle whose content is not here yet, by digest."""
        wanted = {entry.sha256: entry for entry in manifest.files.values()}
        return {digest: entry for digest, entry in wanted.items() if not (self.blobs / digest).is_file()}

    def keep(self, received: Path, digest: str) -> None:
        """Make a received file, durable and of proven digest, a blob that stays until a slot links it or a restart."""
        with disk.explained(self.root):
            if (self.blobs / digest).is_file():
                received.unlink()
                return
            self._incoming.add(digest)
            disk.move(received, self.blobs / digest)

    def drop(self, digests: Iterable[str]) -> None:
        """Let blobs go that were kept for an install which will not come; what a slot links stays."""
        self._incoming -= set(digests)
        with disk.explained(self.root):
            self._collect(keep=self._incoming)

    def build(self, digest: str, manifest: Manifest, manifest_bytes: bytes, signature: bytes) -> Path:
        """Put a bundle's files together under their own names, durable, and not a slot before `commit`.

        Raises:
            ConflictError: A blob is missing.
            FileNameError: A file has a name that no bundle may have.
            StoreFullError: No room is left.
        """
        target = self.folder(manifest.name, digest)
        draft = self.staging / digest
        with disk.explained(self.root):
            disk.remove_tree(draft)
            disk.remove_tree(target)
            draft.mkdir()
            self._fill(draft, manifest.files)
            disk.write_file(draft / MANIFEST_NAME, manifest_bytes)
            if signature:
                disk.write_file(draft / SIGNATURE_NAME, signature)
            disk.sync_directory(draft)
            target.parent.mkdir(exist_ok=True)
            disk.sync_directory(self._models)
            disk.move(draft, target)
        self._incoming -= {entry.sha256 for entry in manifest.files.values()}
        return target

    def commit(self, model: str, state: ModelState) -> None:
        """Make `state` the truth about a model, in one atomic step, then remove what it no longer names."""
        folder = self._models / model
        with disk.explained(self.root):
            self._reserve.replace_file(folder / STATE_NAME, encode_state(state))
        self._unwritten.pop(model, None)
        self.clean(model)

    def hold(self, model: str, state: ModelState) -> bool:
        """Let `state` be the truth about a model whether or not it can be written now; `catch_up` tries again.

        Returns:
            Whether it was written. Until it is, a start finds the state before it.
        """
        try:
            self.commit(model, state)
        except StoreError as error:
            self._unwritten[model] = state
            _LOG.warning("%s: what serves now is not written, and a start would forget it: %s", model, error)
            return False
        return True

    def catch_up(self) -> None:
        """Write what could not be written before, as far as the disk lets it now."""
        for model, state in list(self._unwritten.items()):
            with contextlib.suppress(StoreError):
                self.commit(model, state)
                _LOG.info("%s: what serves is written now", model)

    def clean(self, model: str) -> None:
        """Remove folders that the model's state does not name, and blobs that no folder links."""
        with disk.explained(self.root):
            self._clean_model(self._models / model)
            self._collect(keep=self._incoming)

    def abandon(self, manifest: Manifest) -> None:
        """Remove all that a failed install left: its drafts, its folder, its blobs if no slot has them."""
        self._incoming -= {entry.sha256 for entry in manifest.files.values()}
        with disk.explained(self.root):
            for draft in self.staging.iterdir():
                if draft.is_dir():
                    disk.remove_tree(draft)
        self.clean(manifest.name)

    def remove(self, model: str) -> None:
        """Remove a model and all its slots."""
        with disk.explained(self.root):
            (self._models / model / STATE_NAME).unlink(missing_ok=True)
            disk.sync_directory(self._models / model)
        self._unwritten.pop(model, None)
        self.clean(model)

    def _state(self, folder: Path) -> ModelState:
        path = folder / STATE_NAME
        return decode_state(path.read_bytes(), path) if path.is_file() else ModelState()

    def _fill(self, draft: Path, files: Mapping[str, FileEntry]) -> None:
        check_names([*files, MANIFEST_NAME, SIGNATURE_NAME])
        folders = {draft}
        for name, entry in files.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
            blob = self.blobs / entry.sha256
            if not blob.is_file():
                remedy = "Ask for a plan and upload what is missing."
                raise ConflictError(f"The content of {name} has not been uploaded.", remedy=remedy)
            disk.link(blob, target)
        for folder in sorted(folders, reverse=True):
            disk.sync_directory(folder)

    def _recover_if_writable(self) -> None:
        try:
            if os.statvfs(self.root).f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            self._recover()
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            _LOG.warning("the disk of the store %s is read-only: what is installed serves, nothing changes", self.root)

    def _recover(self) -> None:
        if self.staging.is_symlink():
            self.staging.unlink()
        for folder in (self.blobs, self.staging, self._models):
            folder.mkdir(exist_ok=True)
        for path in list(self.staging.iterdir()):  # the folder itself stays: a full disk may have no room for another
            disk.remove_tree(path)
        disk.sync_directory(self.root)
        for path in (*self._models.iterdir(), *self.blobs.iterdir()):
            if path.is_symlink():  # no agent makes one, and what it leads to is not the store's
                path.unlink()
        for folder in list(self._models.iterdir()):
            self._clean_model(folder)
        self._collect(keep=())
        self._reserve.fill()

    def _clean_model(self, folder: Path) -> None:
        if not folder.is_dir():
            return
        named = {record.digest for record in self._state(folder).slots.values()}
        for path in list(folder.iterdir()):
            if path.is_symlink() or (path.is_dir() and path.name not in named):
                disk.remove_tree(path)
            elif path.is_file() and path.name != STATE_NAME:
                path.unlink()
        if not named:
            disk.remove_tree(folder)

    def _collect(self, keep: Iterable[str]) -> None:
        kept = set(keep)
        for blob in list(self.blobs.iterdir()):
            if blob.stat().st_nlink == 1 and blob.name not in kept:
                blob.unlink()


def _lock(root: Path) -> int:
    # Only to be read, so that a disk which is or becomes read-only can be locked as well.
    handle = os.open(root / "lock", os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        message = f"Another agent owns the store {root}."
        remedy = "Stop that agent, or give this one a store of its own with --store."
        raise StoreLockedError(message, remedy=remedy) from error
    return handle
