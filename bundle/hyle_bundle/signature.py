"""The signature of a bundle: a DSSE envelope, signed with Ed25519, over the statement of every file's digest.

Envelope and statement have one canonical form each, so that no bit of either can change unnoticed.

Source: DSSE 1.0.2, protocol and envelope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from hyle_bundle.envelope import MAX_ENVELOPE_BYTES, Kind, pre_authentication_encoding, seal, unseal
from hyle_bundle.keys import PrivateKey, PublicKey
from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME
from hyle_bundle.statement import SignatureError, Statement, check_statement

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
MAX_SIGNATURE_BYTES = MAX_ENVELOPE_BYTES

_KIND = Kind(PAYLOAD_TYPE, SIGNATURE_NAME, "Fetch the bundle again from its signer.")


@dataclass(frozen=True, slots=True)
class Verified:
    """A statement whose signature holds, and the key that made it."""

    statement: Statement
    signer: PublicKey


def sign_statement(statement: Statement, key: PrivateKey) -> bytes:
    """Return the canonical envelope of a statement."""
    return seal(_KIND, statement, key)


def verify_envelope(envelope: bytes | memoryview, trusted: Sequence[PublicKey] | None) -> Verified:
    """Check an envelope and return what it states.

    Args:
        envelope: The bytes of `signature.dsse.json`.
        trusted: Keys that may sign. None takes the key that the envelope brings along, which proves that the
            statement is whole, not whose it is.

    Raises:
        SignatureError: The envelope is malformed or not canonical, its key is not trusted, or the signature is wrong.
    """
    statement, signer = unseal(_KIND, envelope, Statement, trusted)
    check_statement(statement)
    return Verified(statement, signer)


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
        raise _KIND.refusal("it signs another bundle.json")
    return verified


def verify_manifest(
    manifest: bytes | memoryview, envelope: bytes | memoryview, trusted: Sequence[PublicKey] | None
) -> str:
    """Do what `verify_signed` does and return the signer's key id.

    Raises:
        SignatureError: As `verify_signed`.
    """
    return verify_signed(manifest, envelope, trusted).signer.fingerprint
