"""Unsigned, signed by a stranger, swapped, with a file too many, older, replayed, climbing out of its folder."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import grpc
import hyle_agent.loading
import hyle_agent.store
import hyle_agent.upload
import hyle_bundle.manifest
import msgspec
import pytest
from agent_fakes import chunks, config_for, manifest_of, running
from hyle_agent.loading import Admitted, SlotLoader
from hyle_agent.trust import Trust
from hyle_bundle import PrivateKey, open_bundle
from hyle_bundle.manifest import FileEntry, decode_manifest, encode_manifest
from hyle_bundle.signature import sign_statement
from hyle_bundle.statement import make_statement
from hyle_protos.control import control_pb2 as pb
from test_agent_control import refused, version_that_answers
from victims import Victim

DENIED, INVALID, CONFLICT = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
)


def install(path: Path) -> pb.InstallRequest:
    """What an installation sends last, and whoever listens may keep."""
    with open_bundle(path) as bundle:
        return pb.InstallRequest(manifest=bundle.manifest_bytes, signature=bundle.signature_bytes or b"")


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_a_bundle_that_no_trusted_key_signed(
    victim: Victim, keys: dict[str, PrivateKey], who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = victim.bundle(2, key=keys.get(who))
    error = refused(victim.operator.install, attack)
    assert error.code() is DENIED
    assert ("is not signed" if who == "nobody" else "is not trusted") in error.details()
    assert refused(victim.operator.stub.Install, install(attack)).code() is DENIED
    assert version_that_answers(victim.channel) == 1
    monkeypatch.setattr(Trust, "signer", lambda *_: "")
    victim.operator.deploy(attack)
    assert version_that_answers(victim.channel) == 2


def test_a_signature_of_a_stranger_that_claims_to_be_the_owners(victim: Victim, keys: dict[str, PrivateKey]) -> None:
    """The envelope carries the owner's public key and its id, and the stranger's signature."""
    honest, forged = install(victim.bundle(2)), install(victim.bundle(2, key=keys["stranger"]))
    envelope, claimed = json.loads(forged.signature), json.loads(honest.signature)
    for field in ("keyid", "publicKey"):
        envelope["signatures"][0][field] = claimed["signatures"][0][field]
    forged.signature = json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()
    error = refused(victim.operator.stub.Install, forged)
    assert error.code() is DENIED
    assert "does not match what it signs" in error.details()
    victim.operator.plan(open_bundle(victim.bundle(2)))


def test_the_owners_signature_of_another_bundle(victim: Victim) -> None:
    two, three = install(victim.bundle(2)), install(victim.bundle(3))
    error = refused(victim.operator.stub.Install, pb.InstallRequest(manifest=three.manifest, signature=two.signature))
    assert error.code() is DENIED
    assert "signs another bundle.json" in error.details()


def swapped(victim: Victim, path: Path) -> list[pb.BlobChunk]:
    """The upload of a bundle in which the weights are another version's, under the digest of the announced ones."""
    with open_bundle(path) as bundle, open_bundle(victim.bundle(5)) as other:
        sent = list(chunks(bundle, victim.operator.plan(bundle), step=1 << 20))
        weights, wrong = (bytes(one.read("segments/0.bin")) for one in (bundle, other))
    assert [chunk.data for chunk in sent].count(weights) == 1
    for chunk in sent:
        chunk.data = wrong if chunk.data == weights else chunk.data
    return sent


def test_a_file_swapped_on_the_way(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    path = victim.bundle(2)
    error = refused(victim.operator.stub.Upload, iter(swapped(victim, path)))
    assert error.code() is INVALID
    assert "is not what was announced: its digest is" in error.details()

    def believe(receipt: hyle_agent.upload.Receipt) -> None:
        os.fsync(receipt._handle)
        os.close(receipt._handle)
        receipt._handle = -1
        receipt._store.keep(receipt._path, receipt._digest)

    monkeypatch.setattr(hyle_agent.upload.Receipt, "finish", believe)
    victim.operator.stub.Upload(iter(swapped(victim, path)))
    assert "segments/0.bin of small 2 changed" in refused(victim.operator.stub.Install, install(path)).details()

    def believe_too(loader: SlotLoader, folder: Path, digest: str) -> Admitted:
        return Admitted(decode_manifest((folder / "bundle.json").read_bytes()), "", digest)

    monkeypatch.setattr(SlotLoader, "admit_folder", believe_too)
    victim.operator.stub.Upload(iter(swapped(victim, path)))
    # The self-test stands as the third: its golden vectors are not those weights'.
    error = refused(victim.operator.stub.Install, install(path))
    assert "self-test's residual" in error.details()
    assert version_that_answers(victim.channel) == 1


@pytest.mark.parametrize("how", ["swapped", "added", "linked"])
def test_a_slot_changed_on_the_disk(victim: Victim, tmp_path: Path, how: str) -> None:
    """Another file's content, a file that nobody signed, and a link to the very content, which might change later."""
    config = config_for(victim.store, insecure=False, trusted=(str(tmp_path / "owner.pub"),))
    with open_bundle(victim.bundle(1)) as bundle:
        folder = victim.store / "models/small" / bundle.digest
    victim.agent.stop()
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 1
    target = folder / "segments/0.bin"
    content = target.read_bytes()
    if how == "added":
        (folder / "segments/evil.bin").write_bytes(content)
    else:
        target.unlink()
        (tmp_path / "elsewhere").write_bytes(content)
        target.symlink_to(tmp_path / "elsewhere") if how == "linked" else target.write_bytes(content[::-1])
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        error = refused(version_that_answers, channel)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    name = "segments/evil.bin" if how == "added" else "segments/0.bin"
    assert f"{name} of small 1 changed on the disk" in error.details()


def test_a_file_that_no_plan_announced(victim: Victim) -> None:
    evil = b"#!/bin/sh"
    chunk = pb.BlobChunk(sha256=hashlib.sha256(evil).hexdigest(), size=len(evil), data=evil)
    error = refused(victim.operator.stub.Upload, iter([chunk]))
    assert error.code() is CONFLICT
    assert "No plan announced" in error.details()
    assert not (victim.store / "blobs" / chunk.sha256).exists()


def test_a_file_that_is_longer_than_announced(victim: Victim) -> None:
    with open_bundle(victim.bundle(2)) as bundle:
        sent = list(chunks(bundle, victim.operator.plan(bundle)))
        endless = [sent[0], *[pb.BlobChunk(data=bytes(1 << 20))] * 64]
        error = refused(victim.operator.stub.Upload, iter(endless))
        assert error.code() is INVALID
        assert "longer than announced" in error.details()
        assert list((victim.store / "staging").iterdir()) == []
        assert victim.operator.upload(bundle, victim.operator.plan(bundle)).blobs > 0


def test_an_older_version_and_its_recorded_messages(victim: Victim) -> None:
    recorded = install(victim.bundle(1))
    victim.operator.deploy(victim.bundle(2))
    victim.operator.deploy(victim.bundle(3))
    plan = pb.PlanRequest(manifest=recorded.manifest, signature=recorded.signature)
    for call, message in ((victim.operator.stub.Plan, plan), (victim.operator.stub.Install, recorded)):
        error = refused(call, message)
        assert error.code() is CONFLICT
        assert "is older than what is installed: counter 1, installed 3" in error.details()
    digest = hashlib.sha256(recorded.manifest).hexdigest()
    assert refused(victim.operator.stub.Activate, pb.ActivateRequest(model="small", digest=digest)).code() is not None
    assert version_that_answers(victim.channel) == 3


def test_an_older_version_after_the_model_was_removed(victim: Victim) -> None:
    """Removal forgets slots and files, and not how far versions had come."""
    recorded = install(victim.bundle(1))
    victim.operator.deploy(victim.bundle(3))
    victim.operator.stub.Remove(pb.RemoveRequest(model="small"))
    plan = pb.PlanRequest(manifest=recorded.manifest, signature=recorded.signature)
    assert refused(victim.operator.stub.Plan, plan).code() is CONFLICT
    victim.operator.deploy(victim.bundle(4))
    assert version_that_answers(victim.channel) == 4


CLIMBING = ["../../evil", "segments/../../../evil", "/tmp/hyle-evil", "..", "segments//evil", "a\0b", "C:/evil"]


def climbing(name: str, key: PrivateKey) -> pb.InstallRequest:
    """A bundle that even a trusted key signed, one of whose files is named so."""
    content = hashlib.sha256(b"evil").hexdigest()
    manifest = msgspec.structs.replace(manifest_of("small", 2), files={name: FileEntry(4, content)})
    raw = encode_manifest(manifest)
    statement = make_statement("small", {"bundle.json": hashlib.sha256(raw).hexdigest(), name: content})
    return pb.InstallRequest(manifest=raw, signature=sign_statement(statement, key))


@pytest.mark.parametrize("name", CLIMBING)
def test_a_file_name_that_climbs_out_of_the_store(victim: Victim, name: str) -> None:
    error = refused(victim.operator.stub.Install, climbing(name, victim.key))
    assert error.code() is INVALID
    assert "is not allowed in a bundle" in error.details()


def test_a_file_name_that_climbs_would_write_outside_if_names_were_not_checked(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (hyle_bundle.manifest, hyle_agent.store):
        monkeypatch.setattr(module, "check_names", lambda names: None)
    attack = climbing("../../evil", victim.key)
    victim.operator.stub.Plan(pb.PlanRequest(manifest=attack.manifest, signature=attack.signature))
    digest = hashlib.sha256(b"evil").hexdigest()
    victim.operator.stub.Upload(iter([pb.BlobChunk(sha256=digest, size=4, data=b"evil")]))
    refused(victim.operator.stub.Install, attack)
    assert (victim.store / "evil").read_bytes() == b"evil"


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "a" * 200])
def test_a_model_name_that_is_a_path(victim: Victim, name: str) -> None:
    precious = victim.store.parent / "x"
    precious.mkdir()
    (precious / "file").write_text("precious")
    raw = encode_manifest(msgspec.structs.replace(manifest_of("small", 2), name=name))
    statement = make_statement(name, {"bundle.json": hashlib.sha256(raw).hexdigest()})
    attack = pb.InstallRequest(manifest=raw, signature=sign_statement(statement, victim.key))
    assert refused(victim.operator.stub.Install, attack).code() is INVALID
    calls = {"Remove": pb.RemoveRequest, "Rollback": pb.RollbackRequest, "SelfTest": pb.SelfTestRequest}
    for call, message in {**calls, "Activate": pb.ActivateRequest}.items():
        error = refused(getattr(victim.operator.stub, call), message(model=name))
        assert error.code() is grpc.StatusCode.NOT_FOUND
    assert (precious / "file").read_text() == "precious"


def test_links_in_a_store_are_removed_and_never_followed(victim: Victim, tmp_path: Path) -> None:
    victim.agent.stop()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    for place in ("models/evil", "models/small/evil", "blobs/evil", "staging/evil"):
        (victim.store / place).symlink_to(precious)
    (victim.store / "blobs" / ("0" * 64)).symlink_to(precious / "file")
    config = config_for(victim.store, insecure=False, trusted=(str(tmp_path / "owner.pub"),))
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 1
    assert [path for path in victim.store.rglob("*") if path.is_symlink()] == []
    assert (precious / "file").read_text() == "precious"


def test_the_payload_that_is_signed_is_the_one_that_is_read(victim: Victim) -> None:
    """A second payload beside the signed one, in the shapes that lax readers of JSON and base64 take."""
    honest = install(victim.bundle(2))
    envelope = json.loads(honest.signature)
    evil = base64.b64encode(base64.b64decode(envelope["payload"]).replace(b"small", b"large")).decode()
    twice = honest.signature.replace(b'{"payload"', b'{"payload":"' + evil.encode() + b'","payload"', 1)
    spaced = honest.signature.replace(envelope["payload"].encode(), envelope["payload"].encode() + b"\\n")
    for attack in (twice, spaced, honest.signature + b" "):
        error = refused(victim.operator.stub.Install, pb.InstallRequest(manifest=honest.manifest, signature=attack))
        assert error.code() is DENIED
    victim.operator.stub.Plan(pb.PlanRequest(manifest=honest.manifest, signature=honest.signature))
