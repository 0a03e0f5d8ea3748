"""Ed25519 keys: making them, keeping them in PEM files, reading them back.

`cryptography` is imported where a key is used: an agent without keys is 8 MB lighter.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyle_errors import CallerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "KeyFileError",
    "KeyPair",
    "PrivateKey",
    "PublicKey",
    "generate_key",
    "load_private_key",
    "load_public_key",
    "read_passphrase",
]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_PEM_BYTES = 1 << 16


class KeyFileError(CallerError):
    """A key file that is missing, of the wrong kind, not private enough, or already there."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key; `raw` is its 32 bytes."""

    raw: bytes

    @property
    def fingerprint(self) -> str:
        """The key's id: SHA-256 of its 32 bytes, hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Return whether `signature` (64 bytes) is this key's over `message`."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """An Ed25519 private key; its bytes are never shown."""

    _key: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """The public half."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return PublicKey(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over `message`; the same message gives the same signature."""
        return self._key.sign(message)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The two files of a new key and its fingerprint."""

    private: Path
    public: Path
    fingerprint: str


def generate_key(name: str, directory: Path, passphrase: bytes | None = None) -> KeyPair:
    """Make a key and write `<name>.key` (PKCS#8 PEM, mode 0600) and `<name>.pub` (SPKI PEM).

    Args:
        name: ASCII letters, digits, `._-`.
        directory: An existing folder.
        passphrase: Encrypts the private key if given.

    Raises:
        KeyFileError: A bad name, an empty passphrase, a file that is already there, or a folder that cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    if _NAME.fullmatch(name) is None:
        raise KeyFileError(f"{name!r} cannot name a key.", remedy="Use up to 128 letters, digits, '.', '_' and '-'.")
    if passphrase == b"":
        raise KeyFileError(
            "The passphrase is empty.", remedy="Give a passphrase, or none to leave the key unencrypted."
        )
    key = Ed25519PrivateKey.generate()
    lock: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pair = KeyPair(directory / f"{name}.key", directory / f"{name}.pub", PrivateKey(key).public.fingerprint)
    _create(pair.private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock), 0o600)
    try:
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        _create(pair.public, public, 0o644)
    except BaseException:
        pair.private.unlink()
        raise
    return pair


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
    except FileExistsError as error:
        raise KeyFileError(
            f"{path} is already there.", remedy="Choose another name; a key is never overwritten."
        ) from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}.", remedy="Choose another folder.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise KeyFileError(f"{path} cannot be written: {error.strerror}.", remedy="Make room on the disk.") from error


def load_private_key(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key.

    Args:
        path: A PKCS#8 PEM file that only its owner may read.
        passphrase: Needed if, and only if, the file is encrypted.

    Raises:
        KeyFileError: The file is missing, others may read it, it is no Ed25519 private key, or the passphrase is wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path, private=True)
    if b"PUBLIC KEY" in data:
        raise KeyFileError(f"{path} is a public key.", remedy="Give the private key, NAME.key, to sign.")
    try:
        key = load_pem_private_key(data, passphrase)
    except TypeError as error:
        wanted = "needs a passphrase" if passphrase is None else "is not encrypted"
        raise KeyFileError(
            f"The key {path} {wanted}.", remedy="Give a passphrase exactly when the key has one."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} is no private key in PEM form, or the passphrase is wrong.",
            remedy="Make a key with `hyle keys new NAME`.",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key.", remedy="Make one with `hyle keys new NAME`.")
    return PrivateKey(key)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        KeyFileError: The file is missing or is no Ed25519 public key in SPKI PEM form.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    data = _read(path, private=False)
    if b"PRIVATE KEY" in data:
        raise KeyFileError(
            f"{path} is a private key.", remedy="Give the public key, NAME.pub, and keep this one secret."
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} is no public key in PEM form.", remedy="Give the NAME.pub of `hyle keys new`."
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path} is not an Ed25519 key.", remedy="Make one with `hyle keys new NAME`.")
    return PublicKey(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def read_passphrase(path: Path) -> bytes:
    """Return the first line of a file, without its line end.

    Raises:
        KeyFileError: The file cannot be read, others may read it, or its first line is empty.
    """
    passphrase = (_read(path, private=True).splitlines() or [b""])[0]
    if not passphrase:
        raise KeyFileError(f"The first line of {path} is empty.", remedy="Put the passphrase there.")
    return passphrase


def _read(path: Path, *, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_PEM_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}.", remedy="Check the path.") from error
    if len(data) > _MAX_PEM_BYTES:
        raise KeyFileError(f"{path} is too large to be a key.", remedy="Give a PEM file made by `hyle keys new NAME`.")
    if private and stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(
            f"Others than its owner may read {path}, which holds a secret.", remedy=f"Run: chmod 600 {path}"
        )
    return data
