from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hyle_bundle import (
    BundleError,
    PrivateKey,
    PublicKey,
    SignatureError,
    generate_key,
    load_private_key,
    load_public_key,
    open_bundle,
    verify_manifest,
)
from hyle_bundle.container import Member, write_container
from hyle_bundle.content import measure
from hyle_bundle.signature import (
    MAX_SIGNATURE_BYTES,
    PAYLOAD_TYPE,
    pre_authentication_encoding,
    sign_statement,
    verify_envelope,
)
from hyle_bundle.statement import make_statement

Write = Callable[..., Path]


@pytest.fixture
def other(tmp_path: Path) -> PrivateKey:
    return load_private_key(generate_key("other", tmp_path).private)


@pytest.fixture
def signed(bundle_at: Write) -> tuple[bytes, bytes]:
    with open_bundle(bundle_at()) as bundle:
        assert bundle.signature_bytes is not None
        return bundle.manifest_bytes, bundle.signature_bytes


def compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def resigned(payload: bytes, key: PrivateKey, **changes: Any) -> bytes:
    """An envelope made by hand from the DSSE specification."""
    pae = b" ".join([b"DSSEv1", b"28", PAYLOAD_TYPE.encode(), str(len(payload)).encode(), payload])
    entry = {
        "keyid": hashlib.sha256(key.public.raw).hexdigest(),
        "publicKey": base64.b64encode(key.public.raw).decode(),
        "sig": base64.b64encode(key.sign(pae)).decode(),
    }
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": [entry]}
    return compact({**envelope, **changes})


def test_the_encoding_is_that_of_the_specification() -> None:
    # The test vector of the DSSE protocol page.
    wanted = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == wanted


def test_a_second_implementation_verifies_the_envelope(
    bundle_at: Write, signed: tuple[bytes, bytes], key: PrivateKey
) -> None:
    manifest, envelope = signed
    parsed = json.loads(envelope)
    payload = base64.b64decode(parsed["payload"], validate=True)
    (entry,) = parsed["signatures"]
    pae = b"DSSEv1 %d %s %d " % (len(parsed["payloadType"]), parsed["payloadType"].encode(), len(payload)) + payload
    Ed25519PublicKey.from_public_bytes(key.public.raw).verify(base64.b64decode(entry["sig"]), pae)
    assert entry["keyid"] == hashlib.sha256(key.public.raw).hexdigest() == key.public.fingerprint
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    resources = statement["predicate"]["resources"]
    with open_bundle(bundle_at()) as bundle:
        wanted = {n: hashlib.sha256(bundle.read(n)).hexdigest() for n in bundle.names if n != "signature.dsse.json"}
    assert {entry["name"]: entry["digest"] for entry in resources} == wanted
    root = hashlib.sha256(b"".join(bytes.fromhex(entry["digest"]) for entry in resources)).hexdigest()
    assert statement["subject"] == [{"name": "lenet", "digest": {"sha256": root}}]
    assert wanted["bundle.json"] == hashlib.sha256(manifest).hexdigest()


def test_an_envelope_made_by_a_second_implementation_is_ours_byte_for_byte(
    signed: tuple[bytes, bytes], key: PrivateKey
) -> None:
    manifest, envelope = signed
    payload = base64.b64decode(json.loads(envelope)["payload"])
    assert resigned(payload, key) == envelope
    assert verify_manifest(manifest, resigned(payload, key), [key.public]) == key.public.fingerprint


PEER = """
import json, sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
from model_signing import hashing
from model_signing._signing.signing import dsse_payload_to_manifest
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1 import statement_pb2
from google.protobuf import json_format

folder, public = Path(sys.argv[1]), load_pem_public_key(Path(sys.argv[2]).read_bytes())
text = (folder / "signature.dsse.json").read_text()
keyid = json.loads(text)["signatures"][0]["keyid"]
key = SSlibKey.from_crypto(public, keyid=keyid)
envelope = Envelope.from_dict(json.loads(text))
assert list(envelope.verify([key], 1)) == [keyid]
bent = Envelope.from_dict(json.loads(text))
bent.payload = bent.payload.replace(b"lenet", b"tenel")
try:
    bent.verify([key], 1)
except VerificationError:
    pass
else:
    raise SystemExit("a bent payload was accepted")
payload = json.loads(envelope.payload)
Statement.copy_from_pb(json_format.ParseDict(payload, statement_pb2.Statement())).validate()
signed = dsse_payload_to_manifest(payload)
config = hashing.Config().use_file_serialization(hashing_algorithm="sha256")
config = config.set_ignored_paths(paths=[folder / "signature.dsse.json"])
assert config.hash(folder) == signed, "model signing sees other files"
with (folder / "added").open("w"):
    pass
assert config.hash(folder) != signed
print("agreed on", len(payload["predicate"]["resources"]), "files")
"""


def test_the_reference_implementations_of_dsse_in_toto_and_model_signing_agree(
    tmp_path: Path, bundle_at: Write, key: PrivateKey, peer_python: Path
) -> None:
    public = Ed25519PublicKey.from_public_bytes(key.public.raw)
    (tmp_path / "k.pub").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with open_bundle(bundle_at()) as bundle:
        bundle.extract(tmp_path / "out")
    arguments = [peer_python, "-c", PEER, tmp_path / "out", tmp_path / "k.pub"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "agreed on 10 files\n"


def test_the_control_service_needs_two_byte_strings_and_the_keys(
    signed: tuple[bytes, bytes], key: PrivateKey, other: PrivateKey
) -> None:
    manifest, envelope = signed
    assert (
        verify_manifest(memoryview(manifest), memoryview(envelope), [other.public, key.public])
        == key.public.fingerprint
    )
    assert verify_manifest(manifest, envelope, None) == key.public.fingerprint
    for bad, trusted, reason in (
        ((manifest, b""), [key.public], "not signed"),
        ((manifest, envelope), [other.public], "not trusted"),
        ((manifest, envelope), [], "not trusted"),
        ((manifest + b"\n", envelope), [key.public], "another bundle.json"),
        ((b"", envelope), None, "another bundle.json"),
        ((b"not even JSON", envelope), None, "another bundle.json"),
    ):
        with pytest.raises(SignatureError, match=reason):
            verify_manifest(*bad, trusted)


def test_unsigned_and_untrusted_bundles_are_refused_when_keys_are_given(
    bundle_at: Write, key: PrivateKey, other: PrivateKey
) -> None:
    assert open_bundle(bundle_at(), [key.public]).signer == key.public.fingerprint
    assert open_bundle(bundle_at(signed=False)).signer is None
    for path, trusted, reason in (
        (bundle_at(signed=False), [key.public], "not signed"),
        (bundle_at(), [other.public], "not trusted"),
        (bundle_at(), [], "not trusted"),
    ):
        with pytest.raises(SignatureError, match=reason):
            open_bundle(path, trusted)


def test_the_signature_of_another_bundle_or_over_other_files_is_refused(
    tmp_path: Path, bundle_at: Write, key: PrivateKey
) -> None:
    with open_bundle(bundle_at()) as bundle:
        whole = {name: bytes(bundle.read(name)) for name in bundle.names}
    digests = {
        name: hashlib.sha256(data).hexdigest() for name, data in whole.items() if not name.startswith("signature")
    }
    for statement, error in (
        (make_statement("lenet", {**digests, "bundle.json": "0" * 64}), SignatureError),
        (make_statement("lenet", {n: d for n, d in digests.items() if n != "bundle.json"}), SignatureError),
        (make_statement("lenet", {**digests, "extra": "0" * 64}), BundleError),
        (make_statement("lenet", {**digests, "twin.onnx": "0" * 64}), BundleError),
        (make_statement("another", digests), BundleError),
    ):
        contents = {**whole, "signature.dsse.json": sign_statement(statement, key)}
        write_container(tmp_path / "f.hyle", {name: Member(data, measure(data)) for name, data in contents.items()})
        with pytest.raises(error, match=r"signature\.dsse\.json"):
            open_bundle(tmp_path / "f.hyle", [key.public])


def test_every_bit_of_the_envelope_counts(signed: tuple[bytes, bytes], key: PrivateKey) -> None:
    manifest, envelope = signed
    rng = random.Random(5)
    for offset in range(len(envelope)):
        bad = bytearray(envelope)
        bad[offset] ^= 1 << rng.randrange(8)
        for trusted in ([key.public], None):
            with pytest.raises(SignatureError):
                verify_manifest(manifest, bytes(bad), trusted)


def test_only_the_canonical_envelope_is_taken(signed: tuple[bytes, bytes], key: PrivateKey, other: PrivateKey) -> None:
    manifest, envelope = signed
    parsed = json.loads(envelope)
    payload = base64.b64decode(parsed["payload"])
    (entry,) = parsed["signatures"]
    second = json.loads(resigned(payload, other))["signatures"][0]

    def with_entry(**changes: str) -> bytes:
        return compact({**parsed, "signatures": [{**entry, **changes}]})

    for bad, reason in (
        (json.dumps(parsed, sort_keys=True).encode(), "canonical form"),
        (envelope + b"\n", "canonical form"),
        (compact({**parsed, "more": 1}), "cannot be read"),
        (compact({**parsed, "signatures": []}), "cannot be read"),
        (compact({**parsed, "signatures": [entry, second]}), "cannot be read"),
        (compact({**parsed, "payloadType": "text/plain"}), "cannot be read"),
        (compact({**parsed, "payload": parsed["payload"] + "\n"}), "malformed"),
        (compact({**parsed, "payload": "é"}).replace(b"\\u00e9", "é".encode()), "malformed"),
        (with_entry(sig=entry["sig"][:-3] + chr(ord(entry["sig"][-3]) + 1) + "=="), "not canonical"),
        (with_entry(sig=""), "does not match"),
        (with_entry(publicKey=second["publicKey"]), "key id is not"),
        (with_entry(publicKey=second["publicKey"], keyid=second["keyid"]), "does not match"),
        (b"", "not signed"),
        (b"[" * 100_000, "cannot be read"),
        (b" " * (MAX_SIGNATURE_BYTES + 1), "larger"),
    ):
        with pytest.raises(SignatureError, match=reason):
            verify_manifest(manifest, bad, None)


def test_a_signed_statement_that_contradicts_itself_is_refused(signed: tuple[bytes, bytes], key: PrivateKey) -> None:
    payload = base64.b64decode(json.loads(signed[1])["payload"])
    statement = json.loads(payload)
    resources = statement["predicate"]["resources"]

    def changed(path: str, value: object) -> dict[str, Any]:
        copy: dict[str, Any] = json.loads(payload)
        target: Any = copy
        *steps, last = path.split(".")
        for step in steps:
            target = target[int(step) if step.isdigit() else step]
        target[last] = value
        return copy

    for bad, reason in (
        (changed("predicate.resources", resources[::-1]), "contradicts"),
        (changed("predicate.resources", [resources[0], *resources]), "contradicts"),
        (changed("subject.0.digest", {"sha256": "0" * 64}), "contradicts"),
        (changed("predicate.serialization.ignore_paths", ["program.onnx"]), "contradicts"),
        (changed("predicate.serialization.allow_symlinks", True), "cannot be read"),
        (changed("predicateType", "https://slsa.dev/provenance/v1"), "cannot be read"),
        (changed("_type", "https://in-toto.io/Statement/v0.1"), "cannot be read"),
        (changed("subject", []), "cannot be read"),
        (changed("predicate.more", 1), "cannot be read"),
    ):
        with pytest.raises(SignatureError, match=reason):
            verify_envelope(resigned(compact(bad), key), [key.public])
    with pytest.raises(SignatureError, match="canonical form"):
        verify_envelope(resigned(json.dumps(statement).encode(), key), [key.public])


def test_a_key_of_the_wrong_length_accepts_nothing(key: PrivateKey) -> None:
    assert key.public.accepts(key.sign(b"m"), b"m")
    assert not key.public.accepts(key.sign(b"m"), b"n")
    assert not PublicKey(b"short").accepts(key.sign(b"m"), b"m")


def test_keys_are_interchangeable_with_other_software(tmp_path: Path) -> None:
    pair = generate_key("k", tmp_path)
    theirs = load_pem_private_key(pair.private.read_bytes(), None)
    assert isinstance(theirs, Ed25519PrivateKey)
    assert load_public_key(pair.public).accepts(theirs.sign(b"m"), b"m")
