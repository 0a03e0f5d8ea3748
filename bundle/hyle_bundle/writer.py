"""Writing a bundle and signing one that is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from hyle_bundle.bundle import open_bundle
from hyle_bundle.checks import MAX_METADATA_BYTES, BundleError
from hyle_bundle.container import Member, write_container
from hyle_bundle.content import Source, measure
from hyle_bundle.keys import PrivateKey
from hyle_bundle.manifest import FileEntry, Manifest, decode_manifest, encode_manifest
from hyle_bundle.names import MANIFEST_NAME, SIGNATURE_NAME, check_names
from hyle_bundle.signature import sign_statement
from hyle_bundle.statement import make_statement

__all__ = ["sign_bundle", "write_bundle"]


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, Source], key: PrivateKey | None = None) -> str:
    """Write a bundle, whole or not at all; the same arguments give the same bytes.

    Args:
        path: The target; an older file is replaced in one step at the end.
        manifest: Its `files` are filled in here.
        files: Content by file name: a path, streamed from disk, or bytes. Neither the manifest nor the signature.
        key: Signs the bundle if given.

    Returns:
        The bundle's digest: SHA-256 of `bundle.json`, hexadecimal.

    Raises:
        BundleError: `files` holds a name that is reserved, or the manifest is too large.
        FileNameError: A name that no bundle may have.
        ManifestError: The manifest holds a value that it may not.
        InputError: A file cannot be read or changes meanwhile.
        OutputError: The target cannot be written.
    """
    for name in (MANIFEST_NAME, SIGNATURE_NAME):
        if name in files:
            raise BundleError(f"{name} is written by the bundle itself.", remedy="Leave it out of the files.")
    check_names([*files, MANIFEST_NAME, SIGNATURE_NAME])
    members = {name: Member(source, measure(source)) for name, source in files.items()}
    entries = {name: FileEntry(member.content.size, member.content.sha256) for name, member in members.items()}
    return _write(path, msgspec.structs.replace(manifest, files=entries), members, key)


def sign_bundle(path: Path, key: PrivateKey) -> str:
    """Sign a bundle in place, replacing the signature that it may have; it is checked in full before.

    Returns:
        The bundle's digest.

    Raises:
        HyleError: What `open_bundle` and `write_bundle` raise.
    """
    with open_bundle(path) as bundle:
        members = {
            name: Member(view, measure(view)) for name, view in ((n, bundle.read(n)) for n in bundle.manifest.files)
        }
        return _write(path, bundle.manifest, members, key)


def _write(path: Path, manifest: Manifest, members: Mapping[str, Member], key: PrivateKey | None) -> str:
    data = encode_manifest(manifest)
    decode_manifest(data)
    if len(data) > MAX_METADATA_BYTES:
        raise BundleError(
            f"The manifest has more than {MAX_METADATA_BYTES} bytes.", remedy="Compile fewer tiles a bundle."
        )
    described = Member(data, measure(data))
    everything = {**members, MANIFEST_NAME: described}
    if key is not None:
        statement = make_statement(manifest.name, {name: member.content.sha256 for name, member in everything.items()})
        envelope = sign_statement(statement, key)
        everything[SIGNATURE_NAME] = Member(envelope, measure(envelope))
    write_container(path, everything)
    return described.content.sha256
