"""Certificates of `hyle agent init`: who has one gets in, nobody else."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from agent_fakes import FakeExecutor, Operator, config_for, make_bundle, running
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hyle_agent import certificates
from hyle_agent.agent import Agent
from hyle_agent.certificates import make_authority, make_identity
from hyle_agent.config import Tls, read_config
from hyle_agent.errors import ConfigError
from hyle_agent.initial import write_initial
from hyle_bundle import generate_key, load_private_key
from test_agent_control import version_that_answers


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return read_config(write_initial(tmp_path / "agent").config).tls


def credentials(folder: Path, *, with_certificate: bool = True) -> grpc.ChannelCredentials:
    key, chain = ((folder / f"client.{kind}").read_bytes() for kind in ("key", "crt"))
    authority = (folder / "authority.crt").read_bytes()
    if with_certificate:
        return grpc.ssl_channel_credentials(authority, key, chain)
    return grpc.ssl_channel_credentials(authority)


def test_who_has_a_certificate_deploys_and_asks_on_any_address(tmp_path: Path, store: Path, tls: Tls) -> None:
    generate_key("me", tmp_path)
    key = load_private_key(tmp_path / "me.key")
    config = config_for(store, listen="0.0.0.0:0", insecure=False, tls=tls, trusted=(str(tmp_path / "me.pub"),))
    certs = tmp_path / "agent/certs"
    with running(config) as agent:
        address = f"127.0.0.1:{agent.address.rpartition(':')[2]}"
        with grpc.secure_channel(address, credentials(certs)) as channel:
            Operator(channel).deploy(make_bundle(tmp_path, 1, key=key))
            assert version_that_answers(channel) == 1
        files = {"private_key": "client.key", "root_certificates": "authority.crt", "certificate_chain": "client.crt"}
        paths = {name: str(certs / file) for name, file in files.items()}
        with triton.InferenceServerClient(address, ssl=True, **paths) as client:
            assert client.is_model_ready("small")


def test_who_has_none_or_a_strangers_is_not_answered(tmp_path: Path, store: Path, tls: Tls) -> None:
    certs = tmp_path / "agent/certs"
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "authority.crt").write_bytes((certs / "authority.crt").read_bytes())
    make_identity(make_authority("somebody"), "me").write(strange, "client")
    with running(config_for(store, insecure=False, tls=tls)) as agent:
        for offered in (credentials(certs, with_certificate=False), credentials(strange)):
            with grpc.secure_channel(agent.address, offered) as channel, pytest.raises(grpc.RpcError) as caught:
                Operator(channel).model()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(agent.address) as channel, pytest.raises(grpc.RpcError):
            Operator(channel).model()


def test_a_server_certificate_without_a_client_authority_serves_loopback(tmp_path: Path, store: Path, tls: Tls) -> None:
    config = config_for(store, tls=Tls(tls.certificate, tls.key))
    with running(config) as agent:
        offered = credentials(tmp_path / "agent/certs", with_certificate=False)
        with grpc.secure_channel(agent.address, offered) as channel, pytest.raises(KeyError):
            Operator(channel).model()


def test_certificates_that_are_not_there_are_named(store: Path) -> None:
    config = config_for(store, tls=Tls("none.crt", "none.key"))
    with pytest.raises(ConfigError, match=r"tls\.certificate: none\.crt"), running(config):
        pass


def _strangers_key(folder: Path) -> None:
    (folder / "agent.key").write_bytes((folder / "client.key").read_bytes())


def _encrypted_key(folder: Path) -> None:
    key = load_pem_private_key((folder / "agent.key").read_bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "agent.key").write_bytes(pem)


def _swapped(folder: Path) -> None:
    (folder / "agent.key").write_bytes((folder / "agent.crt").read_bytes())


def _no_pem(folder: Path) -> None:
    (folder / "agent.crt").write_bytes(b"\x30\x82\x01\x0a")


def _no_authority(folder: Path) -> None:
    (folder / "authority.crt").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_strangers_key, r"tls\.key: .*agent\.key is not the private key of the first certificate in .*agent\.crt"),
        (_encrypted_key, r"tls\.key: .*agent\.key is encrypted"),
        (_swapped, r"tls\.key: .*agent\.key is no private key in PEM"),
        (_no_pem, r"tls\.certificate: .*agent\.crt is no certificate in PEM"),
        (_no_authority, r"tls\.client_ca: .*authority\.crt is no certificate in PEM"),
    ],
)
def test_files_that_nothing_can_be_served_with_are_named_before_the_device_is_opened(
    tmp_path: Path, store: Path, tls: Tls, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(tmp_path / "agent/certs")

    def connect(options: object) -> None:
        raise AssertionError("the device was opened")

    with pytest.raises(ConfigError, match=said) as caught:
        Agent(config_for(store, tls=tls), load=FakeExecutor(), connect=connect)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("shift", "said"),
    [(-datetime.timedelta(days=2), "is valid from"), (datetime.timedelta(days=4000), "expired on")],
)
def test_a_certificate_that_callers_refuse_today_is_warned_of(
    tmp_path: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shift: datetime.timedelta,
    said: str,
) -> None:
    monkeypatch.setattr(certificates, "_BACKDATED", shift)
    tls = read_config(write_initial(tmp_path / "agent").config).tls
    with caplog.at_level(logging.WARNING), running(config_for(store, tls=tls)):
        pass
    told = [record.getMessage() for record in caplog.records if said in record.getMessage()]
    assert [text.partition(":")[0] for text in told] == ["tls.certificate", "tls.client_ca"]
