"""Opening a bundle: a file mapped into memory and checked, of which nothing is copied until it is read."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from hyle_bundle.atomic import OutputError
from hyle_bundle.checks import BundleError, check_content, check_files, check_signed_files, read_metadata
from hyle_bundle.container import read_container
from hyle_bundle.keys import PublicKey
from hyle_bundle.layout import Placed
from hyle_bundle.manifest import Manifest, decode_manifest
from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME
from hyle_bundle.signature import verify_signed

__all__ = ["Bundle", "BundleError", "open_bundle"]


class Bundle:
    """An open bundle; made by `open_bundle`.

    The file stays mapped until `close`; views that `read` gave out keep the map alive after it.

    Attributes:
        manifest: What `bundle.json` says.
        manifest_bytes: The bytes of `bundle.json`.
        signature_bytes: The bytes of `signature.dsse.json`, None if the bundle is unsigned.
        signer: Key id of the signer (see `PublicKey.fingerprint`), None if the bundle is unsigned.
    """

    def __init__(
        self,
        view: memoryview,
        places: Mapping[str, Placed],
        manifest_bytes: bytes,
        signature: bytes | None,
        signer: str | None,
    ) -> None:
        self._view = view
        self._places = places
        self.manifest_bytes = manifest_bytes
        self.manifest: Manifest = decode_manifest(manifest_bytes)
        self.signature_bytes = signature
        self.signer = signer

    @property
    def digest(self) -> str:
        """The bundle's identity: SHA-256 of `bundle.json`, hexadecimal."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Every file, in the container's order."""
        return tuple(self._places)

    def read(self, name: str) -> memoryview:
        """Return a file's bytes, read-only and not copied.

        Raises:
            BundleError: The bundle has no such file.
        """
        if name not in self._places:
            raise BundleError(f"The bundle has no file {name!r}.", remedy=f"It has: {', '.join(self._places)}.")
        return _content(self._view, self._places[name])

    def offset(self, name: str) -> int:
        """Return where a file's bytes begin in the bundle, a multiple of 64.

        Raises:
            BundleError: The bundle has no such file.
        """
        self.read(name)
        return self._places[name].data

    def extract(self, directory: Path) -> None:
        """Write every file, read-only (mode 0444), into a new folder that appears only when it is whole.

        Args:
            directory: A folder that does not exist yet, or is empty.

        Raises:
            OutputError: It is there and not empty, or cannot be written.
        """
        try:
            draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".tmp", dir=directory.parent))
            try:
                for name in self._places:
                    _write(draft / name, self.read(name))
                draft.chmod(0o755)
                draft.replace(directory)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        except OSError as error:
            raise OutputError(
                f"The bundle cannot be extracted to {directory}: {error.strerror}.",
                remedy="Choose a new folder on a disk with room.",
            ) from error

    def close(self) -> None:
        """Let go of the file; views given out before stay valid."""
        with contextlib.suppress(BufferError):
            self._view.release()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path: Path, trusted: Sequence[PublicKey] | None = None, *, verify_payload: bool = True) -> Bundle:
    """Map a bundle into memory and check it.

    The file must not be written to while it is open; replacing it, as all of hyle does, is safe.
    Container, manifest, signature and the set of files are always checked, the signature before the manifest is parsed.

    Args:
        path: The bundle.
        trusted: Keys of which one must have signed. None opens unsigned bundles too and takes any signer.
        verify_payload: Check CRC-32 and SHA-256 of every file (reads all of it once); False only those of `bundle.json`
            and the signature.

    Raises:
        BundleError: The file cannot be opened, or one of its files is missing, too many or damaged.
        ContainerError: The container is damaged or not canonical.
        SignatureError: The signature is wrong or missing, or its key not trusted.
        ManifestError: `bundle.json` is no manifest.
    """
    mapped = _map(path)
    view = memoryview(mapped)
    places = {placed.entry.name: placed for placed in read_container(view, path.name)}
    manifest_bytes = read_metadata(view, places, MANIFEST_NAME, path)
    signature = read_metadata(view, places, SIGNATURE_NAME, path) if SIGNATURE_NAME in places else None
    verified = None
    if signature is not None or trusted is not None:
        verified = verify_signed(manifest_bytes, signature or b"", trusted)
    bundle = Bundle(view, places, manifest_bytes, signature, verified.signer.fingerprint if verified else None)
    check_files(bundle.manifest, places, path)
    if verified:
        check_signed_files(bundle.manifest, verified.statement)
    if verify_payload:
        for name, wanted in bundle.manifest.files.items():
            check_content(mapped, view, places[name], wanted.sha256, path)
    return bundle


def _map(path: Path) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
                raise BundleError(f"{path} is empty or no plain file.", remedy="Name a bundle, OUT.hyle.")
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BundleError(f"The bundle {path} cannot be opened: {error.strerror}.", remedy="Check the path.") from error


def _content(view: memoryview, placed: Placed) -> memoryview:
    return view[placed.data : placed.data + placed.entry.size]


def _write(path: Path, data: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        os.fchmod(file.fileno(), 0o444)
