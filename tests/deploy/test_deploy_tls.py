"""TLS and mutual TLS against a real server, and every way to get them wrong."""

from __future__ import annotations

import re

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hyle_deploy.channel import TlsError
from hyle_deploy.client import connect
from hyle_deploy.failures import AgentUnreachableError, NotAllowedError


@pytest.fixture
def tls_address(authority, serving):
    cert, key = authority.issue("agent")
    return serving(grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())]))


@pytest.fixture
def mutual_address(authority, serving):
    cert, key = authority.issue("agent")
    pair = [(key.read_bytes(), cert.read_bytes())]
    return serving(grpc.ssl_server_credentials(pair, authority.pem.read_bytes(), require_client_auth=True))


def test_an_agent_whose_authority_is_known_is_talked_to(tls_address, authority):
    with connect(tls_address, ca=authority.pem) as client:
        assert client.status().node == "bench"


def test_a_certificate_of_another_authority_is_refused(tls_address, authority, tmp_path):
    with (
        connect(tls_address, ca=type(authority)(tmp_path, "stranger").pem) as client,
        pytest.raises(NotAllowedError, match="TLS handshake") as caught,
    ):
        client.status()
    assert "--ca" in caught.value.remedy


def test_the_systems_authorities_do_not_know_a_private_one(tls_address):
    with connect(tls_address, tls=True) as client, pytest.raises(NotAllowedError, match="TLS handshake"):
        client.status()


def test_mutual_tls_lets_a_known_client_in(mutual_address, authority):
    cert, key = authority.issue("operator")
    with connect(mutual_address, ca=authority.pem, cert=cert, key=key) as client:
        assert client.status().node == "bench"


def test_mutual_tls_keeps_a_client_without_a_certificate_out(mutual_address, authority):
    with connect(mutual_address, ca=authority.pem) as client, pytest.raises((NotAllowedError, AgentUnreachableError)):
        client.status()


def test_a_plain_client_cannot_talk_to_a_tls_agent(tls_address):
    with connect(tls_address) as client, pytest.raises(AgentUnreachableError) as caught:
        client.status()
    assert "--ca" in caught.value.remedy


def test_a_tls_client_cannot_talk_to_a_plain_agent(address, authority):
    with connect(address, ca=authority.pem) as client, pytest.raises(NotAllowedError) as caught:
        client.status()
    assert "no TLS option" in caught.value.remedy


def test_a_certificate_without_its_key_is_refused(authority):
    cert, _ = authority.issue("operator")
    with pytest.raises(TlsError, match="belong together"):
        connect("127.0.0.1:1", cert=cert)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(TlsError, match=r"nowhere\.pem"):
        connect("127.0.0.1:1", ca=tmp_path / "nowhere.pem")


def test_certificates_that_no_handshake_can_use_are_named_before_it(authority, tmp_path):
    cert, key = authority.issue("operator")
    _, other = authority.issue("somebody")
    locked, noise = tmp_path / "locked.key", tmp_path / "noise.pem"
    loaded = load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    noise.write_bytes(b"\x30\x82\xff")
    for files, said in (
        ({"cert": cert, "key": other}, f"{other} is not the private key of the certificate {cert}"),
        ({"cert": cert, "key": locked}, f"The key {locked} is encrypted"),
        ({"cert": cert, "key": noise}, f"{noise} is no private key in PEM"),
        ({"cert": key, "key": cert}, f"{key} is no certificate in PEM"),
        ({"cert": cert, "key": cert}, f"{cert} is no private key in PEM"),
        ({"ca": noise}, f"{noise} is no certificate in PEM"),
        ({"ca": key}, f"{key} is no certificate in PEM"),
    ):
        with pytest.raises(TlsError, match=re.escape(said)) as caught:
            connect("127.0.0.1:1", **files)
        assert caught.value.remedy
