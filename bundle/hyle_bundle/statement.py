"""What a signature says: an in-toto statement of every file's digest, in the shape of OpenSSF model signing 1.0.

Its one subject is the model, with a digest over the listed files' digests; its predicate lists each file of the
bundle, `bundle.json` among them.

Source: in-toto attestation framework, Statement v1; model-signing 1.1, payload of predicate type signature/v1.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from hyle_errors import CallerError

from hyle_bundle.names import SIGNATURE_NAME

__all__ = ["Sha256", "SignatureError", "Statement", "check_statement", "make_statement"]

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class SignatureError(CallerError):
    """A signature that is missing, wrong, by a key nobody trusts, or not in its one canonical form."""


class Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An in-toto digest set of SHA-256 alone."""

    sha256: Sha256


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the statement is about; its digest is SHA-256 over the resources' binary digests in their order."""

    name: str
    digest: Digest


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file."""

    name: str
    algorithm: Literal["sha256"]
    digest: Sha256


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


def check_statement(statement: Statement) -> None:
    """Refuse a statement that is not what `make_statement` would have made of its own digests.

    Raises:
        SignatureError: It is another.
    """
    if make_statement(statement.subject[0].name, statement.digests) != statement:
        raise SignatureError(
            f"{SIGNATURE_NAME} is refused: its statement contradicts itself.",
            remedy="Fetch the bundle again from its signer.",
        )
