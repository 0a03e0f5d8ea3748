"""The signature of a bundle: a DSSE envelope, signed with Ed25519, over the statement of every file's digest.

Envelope and statement have one canonical form each, so that no bit of either can change unnoticed.

Source: DSSE 1.0.2, protocol and envelope.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from hyle_bundle.keys import PrivateKey, PublicKey
from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME
from hyle_bundle.statement import Sha256, SignatureError, Statement, check_statement

__all__ = [
    "MAX_SIGNATURE_BYTES",
    "PAYLOAD_TYPE",
    "SignatureError",
    "Verified",
    "pre_authentication_encoding",
    "sign_statement",
    "verify_envelope",
    "verify_manifest",
    "verify_signed",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_SIGNATURE_BYTES = 16 << 20

_T = TypeVar("_T", bound=msgspec.Struct)


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: Sha256
    public_key: str = msgspec.field(name="publicKey")
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = msgspec.field(name="payloadType")
    signatures: tuple[_Signature]


@dataclass(frozen=True, slots=True)
class Verified:
    """A statement whose signature holds, and the key that made it."""

    statement: Statement
    signer: PublicKey


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's PAE: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_statement(statement: Statement, key: PrivateKey) -> bytes:
    """Return the canonical envelope of a statement."""
    payload = _canonical(statement)
    signature = key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
    entry = _Signature(key.public.fingerprint, _encode(key.public.raw), _encode(signature))
    return _canonical(_Envelope(_encode(payload), "application/vnd.in-toto+json", (entry,)))


def verify_envelope(envelope: bytes | memoryview, trusted: Sequence[PublicKey] | None) -> Verified:
    """Check an envelope and return what it states.

    Args:
        envelope: The bytes of `signature.dsse.json`.
        trusted: Keys that may sign. None takes the key that the envelope brings along, which proves that the
            statement is whole, not whose it is.

    Raises:
        SignatureError: The envelope is malformed or not canonical, its key is not trusted, or the signature is wrong.
    """
    parsed = _decode(envelope, _Envelope, "envelope")
    entry = parsed.signatures[0]
    embedded = PublicKey(_decode_base64(entry.public_key))
    if embedded.fingerprint != entry.keyid:
        raise _refusal("its key id is not that of its public key")
    if trusted is not None and embedded not in trusted:
        raise SignatureError(
            f"The bundle is signed by the key {entry.keyid}, which is not trusted.",
            remedy="Add the signer's public key to the trusted keys if you trust them.",
        )
    payload = _decode_base64(parsed.payload)
    if not embedded.accepts(_decode_base64(entry.sig), pre_authentication_encoding(PAYLOAD_TYPE, payload)):
        raise _refusal("the signature does not match what it signs")
    statement = _decode(payload, Statement, "statement")
    check_statement(statement)
    return Verified(statement, embedded)


def verify_signed(
    manifest: bytes | memoryview, envelope: bytes | memoryview, trusted: Sequence[PublicKey] | None
) -> Verified:
    """Check that an envelope signs exactly this manifest, which is not parsed.

    Args:
        manifest: The bytes of `bundle.json`; the digests of all other files stand in it.
        envelope: The bytes of `signature.dsse.json`, empty if the bundle is unsigned.
        trusted: Keys that may sign; None takes any.

    Raises:
        SignatureError: There is no signature, it is wrong, its key is not trusted, or it signs another manifest.
    """
    if not len(envelope):
        raise SignatureError("The bundle is not signed.", remedy="Sign it with `hyle sign OUT.hyle --key NAME.key`.")
    verified = verify_envelope(envelope, trusted)
    if verified.statement.digests.get(MANIFEST_NAME) != hashlib.sha256(manifest).hexdigest():
        raise _refusal("it signs another bundle.json")
    return verified


def verify_manifest(
    manifest: bytes | memoryview, envelope: bytes | memoryview, trusted: Sequence[PublicKey] | None
) -> str:
    """Do what `verify_signed` does and return the signer's key id.

    Raises:
        SignatureError: As `verify_signed`.
    """
    return verify_signed(manifest, envelope, trusted).signer.fingerprint


def _canonical(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _decode(data: bytes | memoryview, kind: type[_T], what: str) -> _T:
    if len(data) > MAX_SIGNATURE_BYTES:
        raise _refusal(f"the {what} is larger than {MAX_SIGNATURE_BYTES} bytes")
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(f"the {what} cannot be read: {error}") from error
    if _canonical(value) != bytes(data):
        raise _refusal(f"the {what} is not in canonical form")
    return value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refusal("its base64 is malformed") from error
    if _encode(data) != text:
        raise _refusal("its base64 is not canonical")
    return data


def _refusal(reason: str) -> SignatureError:
    return SignatureError(f"{SIGNATURE_NAME} is refused: {reason}.", remedy="Fetch the bundle again from its signer.")
