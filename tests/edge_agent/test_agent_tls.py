"""Certificates of `hyle agent init`: who has one gets in, nobody else."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from agent_fakes import Operator, config_for, make_bundle, running
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
