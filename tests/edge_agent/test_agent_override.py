"""An operator's signed override lets an older bundle in, on one agent, once; everything else about it is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec
import pytest
from agent_fakes import Operator, Running, config_for, make_bundle, running
from hyle_bundle import PrivateKey, SignatureError, generate_key, load_private_key, open_bundle
from hyle_bundle.envelope import Kind, seal
from hyle_bundle.override import OVERRIDE_TYPE, Override, read_override, sign_override
from hyle_protos.control import control_pb2 as pb
from test_agent_control import PRECONDITION, refused, version_that_answers

from hyle.cli import main

DENIED = grpc.StatusCode.PERMISSION_DENIED


@dataclass
class Site:
    """An agent that once had version 5, and an operator's key."""

    agent: Running
    operator: Operator
    channel: grpc.Channel
    key: PrivateKey
    folder: Path

    def override(self, **changes: object) -> Override:
        now = int(time.time())
        fields = {"model": "small", "counter": 1, "agent": "n", "issued": now, "expires": now + 60}
        challenge = self.operator.stub.Status(pb.StatusRequest()).challenge
        return Override(**{**fields, "challenge": challenge, **changes})

    def install(self, version: int, override: bytes) -> pb.InstallResponse:
        with open_bundle(make_bundle(self.folder, version)) as bundle:
            plan = pb.PlanRequest(manifest=bundle.manifest_bytes, override=override)
            self.operator.upload(bundle, list(self.operator.stub.Plan(plan).missing))
            return self.operator.stub.Install(pb.InstallRequest(manifest=bundle.manifest_bytes, override=override))


@pytest.fixture
def site(tmp_path: Path, store: Path) -> Iterator[Site]:
    for name in ("operator", "stranger"):
        generate_key(name, tmp_path)
    config = config_for(store, operators=(str(tmp_path / "operator.pub"),))
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 5))
        yield Site(agent, operator, channel, load_private_key(tmp_path / "operator.key"), tmp_path)


def test_an_override_lets_an_older_bundle_in_once(site: Site) -> None:
    override = sign_override(site.override(), site.key)
    installed = site.install(1, override)
    site.operator.stub.Activate(pb.ActivateRequest(model="small", digest=installed.digest))
    assert version_that_answers(site.channel) == 1
    site.operator.deploy(make_bundle(site.folder, 6))
    error = refused(site.install, 2, override)
    assert error.code() is DENIED
    assert "used already" in error.details()
    kinds = [event.kind for event in site.operator.stub.Status(pb.StatusRequest()).events]
    assert kinds.count("override") == 1


def test_an_older_bundle_stays_refused_after_the_model_was_removed_and_after_a_restart(site: Site, store: Path) -> None:
    site.operator.stub.Remove(pb.RemoveRequest(model="small"))
    with open_bundle(make_bundle(site.folder, 4)) as older:
        assert "counter 4, installed 5" in refused(site.operator.plan, older).details()
    site.agent.stop()
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        with open_bundle(make_bundle(site.folder, 4)) as older:
            error = refused(Operator(channel).plan, older)
        assert error.code() is PRECONDITION


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "other"}, "for the model 'other'"),
        ({"agent": "elsewhere"}, "for the agent 'elsewhere'"),
        ({"counter": 3}, "counters from 3 on, not 1"),
        ({"challenge": "0" * 32}, "used already, or made for another store"),
        ({"expires": 1}, "it ended"),
        ({"issued": 2**40, "expires": 2**41}, "signed in the future"),
    ],
)
def test_an_override_for_anything_else_is_refused(site: Site, changes: dict[str, object], why: str) -> None:
    error = refused(site.install, 1, sign_override(site.override(**changes), site.key))
    assert error.code() is DENIED
    assert why in error.details()


def test_a_failed_install_does_not_use_the_override_up(site: Site) -> None:
    override = sign_override(site.override(), site.key)
    site.agent.executor.fail = RuntimeError("private")
    refused(site.install, 1, override)
    site.agent.executor.fail = None
    assert site.install(1, override).slot == "b"


@pytest.mark.parametrize("kind", ["stranger", "bundle's type", "damaged", "empty", "large"])
def test_what_no_operator_signed_is_no_override(site: Site, kind: str) -> None:
    override = site.override()
    data = sign_override(override, site.key)
    if kind == "stranger":
        data = sign_override(override, load_private_key(site.folder / "stranger.key"))
    if kind == "bundle's type":
        data = seal(Kind("application/vnd.in-toto+json", "x", "x"), override, site.key)
    if kind == "damaged":
        data = data.replace(b'"sig":"', b'"sig":"A')
    if kind == "empty":
        data = b"{}"
    if kind == "large":
        data = data + b" " * (1 << 16)
    assert refused(site.install, 1, data).code() is DENIED
    assert site.operator.model().active == "a"


def test_every_changed_byte_of_an_override_is_found(tmp_path: Path) -> None:
    generate_key("k", tmp_path)
    key = load_private_key(tmp_path / "k.key")
    override = Override(model="m", counter=1, agent="n", challenge="0" * 32, issued=1, expires=2)
    data = sign_override(override, key)
    assert read_override(data, [key.public]) == (override, key.public.fingerprint)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(SignatureError):
            read_override(bytes(damaged), [key.public])
    assert msgspec.json.decode(data)["payloadType"] == OVERRIDE_TYPE


def test_the_command_makes_an_override_and_uses_it(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, file = str(make_bundle(tmp_path, 2)), str(tmp_path / "leave.json")
    to = ["--to", site.agent.address]
    assert main(["deploy", bundle, *to]) == 2
    assert "hyle override" in capsys.readouterr().err
    assert main(["override", bundle, "-o", file, "--sign-with", str(tmp_path / "operator.key"), *to]) == 0
    assert main(["deploy", bundle, "--override", file, *to]) == 0
    assert version_that_answers(site.channel) == 2
    assert main(["deploy", bundle, "--override", str(tmp_path / "none"), *to]) == 2
    assert (
        main(["override", bundle, "-o", file, "--sign-with", str(tmp_path / "operator.key"), "--hours", "0", *to]) == 2
    )
    capsys.readouterr()
    assert main(["status", *to]) == 0
    assert "let in by an operator's override" in capsys.readouterr().err
