"""DSSE envelopes with one Ed25519 signature, in one canonical form, so that no bit of them can change unnoticed.

What is signed includes the payload's type: a signature over one kind of statement is none over another.

Source: DSSE 1.0.2, protocol and envelope.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from hyle_bundle.keys import PrivateKey, PublicKey
from hyle_bundle.statement import Sha256, SignatureError

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "Kind",
    "decode_canonical",
    "encode_canonical",
    "pre_authentication_encoding",
    "seal",
    "unseal",
]

MAX_ENVELOPE_BYTES = 16 << 20

_T = TypeVar("_T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of signed statement.

    Attributes:
        payload_type: Media type of the statement.
        file: What messages call the envelope.
        remedy: What to do about one that is refused.
        largest: Most bytes of the envelope and of the statement.
    """

    payload_type: str
    file: str
    remedy: str
    largest: int = MAX_ENVELOPE_BYTES

    def refusal(self, reason: str) -> SignatureError:
        """Return the error for an envelope that is refused."""
        return SignatureError(f"{self.file} is refused: {reason}.", remedy=self.remedy)


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: Sha256
    public_key: str = msgspec.field(name="publicKey")
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[_Signature]


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's PAE: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(kind: Kind, statement: msgspec.Struct, key: PrivateKey) -> bytes:
    """Return the canonical envelope of a statement."""
    payload = encode_canonical(statement)
    signature = key.sign(pre_authentication_encoding(kind.payload_type, payload))
    entry = _Signature(key.public.fingerprint, _encode(key.public.raw), _encode(signature))
    return encode_canonical(_Envelope(_encode(payload), kind.payload_type, (entry,)))


def unseal(
    kind: Kind, envelope: bytes | memoryview, statement: type[_T], trusted: Sequence[PublicKey] | None
) -> tuple[_T, PublicKey]:
    """Check an envelope and return what it states and the key that signed.

    Args:
        kind: What it must be.
        envelope: The bytes.
        statement: Type of the statement.
        trusted: Keys that may sign. None takes the key that the envelope brings along, which proves that the
            statement is whole, not whose it is.

    Raises:
        SignatureError: The envelope is malformed or not canonical, its key is not trusted, or the signature is wrong.
    """
    parsed = decode_canonical(kind, envelope, _Envelope, "envelope")
    if parsed.payload_type != kind.payload_type:
        raise kind.refusal(f"the envelope cannot be read: its payload is {parsed.payload_type[:64]!r}")
    entry = parsed.signatures[0]
    embedded = PublicKey(_decode(kind, entry.public_key))
    if embedded.fingerprint != entry.keyid:
        raise kind.refusal("its key id is not that of its public key")
    if trusted is not None and embedded not in trusted:
        raise SignatureError(
            f"{kind.file} is signed by the key {entry.keyid}, which is not trusted.",
            remedy="Add the signer's public key to the trusted keys if you trust them.",
        )
    payload = _decode(kind, parsed.payload)
    if not embedded.accepts(_decode(kind, entry.sig), pre_authentication_encoding(kind.payload_type, payload)):
        raise kind.refusal("the signature does not match what it signs")
    return decode_canonical(kind, payload, statement, "statement"), embedded


def encode_canonical(value: msgspec.Struct) -> bytes:
    """Return a value's one form in JSON."""
    return msgspec.json.encode(value, order="sorted")


def decode_canonical(kind: Kind, data: bytes | memoryview, form: type[_T], what: str) -> _T:
    """Read JSON that must be in its one form; `what` is for the message.

    Raises:
        SignatureError: It is too large, not of this form, or not canonical.
    """
    if len(data) > kind.largest:
        raise kind.refusal(f"the {what} is larger than {kind.largest} bytes")
    try:
        value = msgspec.json.decode(data, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise kind.refusal(f"the {what} cannot be read: {error}") from error
    if encode_canonical(value) != bytes(data):
        raise kind.refusal(f"the {what} is not in canonical form")
    return value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(kind: Kind, text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise kind.refusal("its base64 is malformed") from error
    if _encode(data) != text:
        raise kind.refusal("its base64 is not canonical")
    return data
