"""The signature of a bundle: a DSSE envelope, signed with Ed25519, over an in-toto statement of every file's digest.

The statement has the shape of OpenSSF model signing 1.0: its one subject is the model, with a digest over the listed
files' digests, and its predicate lists each file of the bundle, `bundle.json` among them. Envelope and statement have
one canonical form each, so that no bit of either can change unnoticed.

Source: DSSE 1.0.2 protocol; in-toto attestation framework, Statement v1; model-signing 1.1 payload.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec
from hyle_errors import CallerError

from hyle_bundle.keys import PrivateKey, PublicKey
from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME

__all__ = [
    "MAX_SIGNATURE_BYTES",
    "PAYLOAD_TYPE",
    "SignatureError",
    "Statement",
    "Verified",
    "make_statement",
    "pre_authentication_encoding",
    "sign_statement",
    "verify_envelope",
    "verify_manifest",
    "verify_signed",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_SIGNATURE_BYTES = 16 << 20

_T = TypeVar("_T", bound=msgspec.Struct)
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class SignatureError(CallerError):
    """A signature that is missing, wrong, by a key nobody trusts, or not in its one canonical form."""


class Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An in-toto digest set of SHA-256 alone."""

    sha256: _Sha256


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the statement is about; its digest is SHA-256 over the resources' binary digests in their order."""

    name: str
    digest: Digest


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file."""

    name: str
    algorithm: Literal["sha256"]
    digest: _Sha256


class Serialization(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the files were hashed: each whole, no links, the signature itself left out."""

    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: Literal[False]
    ignore_paths: tuple[str]


class Predicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of the subject."""

    serialization: Serialization
    resources: tuple[Resource, ...]


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An in-toto Statement v1 with the model-signing 1.0 predicate."""

    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: tuple[Subject]
    predicate_type: Literal["https://model_signing/signature/v1.0"] = msgspec.field(name="predicateType")
    predicate: Predicate

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return {resource.name: resource.digest for resource in self.predicate.resources}


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: _Sha256
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


def make_statement(name: str, digests: Mapping[str, str]) -> Statement:
    """Return the statement over these files.

    Args:
        name: The model's name.
        digests: SHA-256, hexadecimal, of every file but the signature.
    """
    resources = tuple(Resource(file, "sha256", digests[file]) for file in sorted(digests))
    return Statement(
        type="https://in-toto.io/Statement/v1",
        subject=(Subject(name, Digest(_root(resources))),),
        predicate_type="https://model_signing/signature/v1.0",
        predicate=Predicate(Serialization("files", "sha256", False, (SIGNATURE_NAME,)), resources),
    )


def _root(resources: Sequence[Resource]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()


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
    return Verified(_checked(_decode(payload, Statement, "statement")), embedded)


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


def _checked(statement: Statement) -> Statement:
    names = [resource.name for resource in statement.predicate.resources]
    if names != sorted(set(names)):
        raise _refusal("its files are out of order")
    if statement.predicate.serialization.ignore_paths != (SIGNATURE_NAME,):
        raise _refusal("it leaves files out")
    if statement.subject[0].digest.sha256 != _root(statement.predicate.resources):
        raise _refusal("the model's digest is not that of its files")
    return statement


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
