"""Every call of every service of the protos, without a certificate, with a stranger's, and with the wrong role.

The list comes from the descriptors of everything generated, so that a call is tested before anyone thinks of it: what
is not named as open to `query` must be closed to it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import hyle_protos
import pytest
from agent_fakes import Running, config_for, connect_twin, running
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hyle_agent.certificates import Identity, make_authority, make_identity
from hyle_agent.config import read_config
from hyle_agent.initial import write_initial
from hyle_errors import CallerError
from hyle_substrates.remote_server import serve

OPEN_TO_QUERY = {
    "Status",
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "Check",
    "List",
    "Watch",
    "ServerReflectionInfo",
}
DEVICE = "hyle.substrate.v1.Substrate"
REFUSED, CLOSED = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE


def descriptors() -> Iterator[Any]:
    """Every generated file, and those of grpcio's that the agent serves."""
    for found in pkgutil.walk_packages(hyle_protos.__path__, "hyle_protos."):
        if found.name.endswith("_pb2"):
            yield importlib.import_module(found.name).DESCRIPTOR
    yield importlib.import_module("grpc_health.v1.health_pb2").DESCRIPTOR
    yield importlib.import_module("grpc_reflection.v1alpha.reflection_pb2").DESCRIPTOR


CALLS = {
    f"/{service.full_name}/{method.name}": method
    for file in descriptors()
    for service in file.services_by_name.values()
    for method in service.methods
}
DEVICES = {path: method for path, method in CALLS.items() if DEVICE in path}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent") / "a"
    write_initial(folder)
    return folder / "certs"


@pytest.fixture(params=["completion-queue", "aio"], scope="module")
def guarded(
    request: pytest.FixtureRequest, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    tls = read_config(certificates.parent / "agent.toml").tls
    store = tmp_path_factory.mktemp("store")
    with running(config_for(store, insecure=False, tls=tls, engine=request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def device(certificates: Path) -> Iterator[str]:
    """A device's server with the agent's certificate, which asks for clients' of the same authority."""
    key, chain = ((certificates / f"agent.{kind}").read_bytes() for kind in ("key", "crt"))
    authority = (certificates / "authority.crt").read_bytes()
    credentials = grpc.ssl_server_credentials([(key, chain)], authority, require_client_auth=True)
    server = serve(lambda: connect_twin({"profile": "ideal"}), credentials=credentials)
    yield f"127.0.0.1:{server.port}"
    server.stop()


def offered(certificates: Path, who: str) -> grpc.ChannelCredentials:
    """What a caller brings: a role's certificate of the agent's authority, without one, a stranger's, or none."""
    authority = (certificates / "authority.crt").read_bytes()
    if who == "nobody":
        return grpc.ssl_channel_credentials(authority)
    folder, name = certificates, {"operate": "client"}.get(who, who)
    if who in {"stranger", "roleless"}:
        signer = make_authority("somebody") if who == "stranger" else authority_of(certificates)
        folder, name = certificates.parent / who, "client"
        if not folder.exists():
            folder.mkdir()
            make_identity(signer, who, role="operate" if who == "stranger" else None).write(folder, name)
    key, chain = ((folder / f"{name}.{kind}").read_bytes() for kind in ("key", "crt"))
    return grpc.ssl_channel_credentials(authority, key, chain)


def authority_of(certificates: Path) -> Identity:
    certificate = x509.load_pem_x509_certificate((certificates / "authority.crt").read_bytes())
    return Identity(certificate, load_pem_private_key((certificates / "authority.key").read_bytes(), None))


def code_of(channel: grpc.Channel, path: str, method: Any) -> grpc.StatusCode:
    """Status of one call with an empty message; of a call that never ends, of its first answer."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(channel, kind)(path)
    message = iter([b""]) if method.client_streaming else b""
    try:
        answer = call(message, timeout=20)
        if method.server_streaming:
            next(answer, None)
            answer.cancel()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def codes(address: str, credentials: grpc.ChannelCredentials | None, calls: dict[str, Any]) -> dict[str, Any]:
    made = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with made as channel:
        return {path: code_of(channel, path, method) for path, method in calls.items()}


def test_the_calls_that_are_tested_are_those_that_are_served(guarded: Running) -> None:
    engine = guarded.agent._engine
    tables = getattr(engine, "_services", ())
    served = {f"/{service.name}/{name}" for service in tables for name in service.methods} or set(engine._methods)
    assert served == set(CALLS)
    assert len(CALLS) >= 23
    assert len(DEVICES) == 4


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_nobody_without_the_authoritys_certificate_gets_to_any_call(
    guarded: Running, device: str, certificates: Path, who: str
) -> None:
    credentials = offered(certificates, who)
    for address, calls in ((guarded.address, CALLS), (device, DEVICES)):
        assert set(codes(address, credentials, calls).values()) == {CLOSED}
        assert set(codes(address, None, calls).values()) == {CLOSED}


def test_a_certificate_without_a_role_opens_no_call(guarded: Running, certificates: Path) -> None:
    assert set(codes(guarded.address, offered(certificates, "roleless"), CALLS).values()) == {REFUSED}


def test_the_role_query_opens_what_asks_and_nothing_that_changes(guarded: Running, certificates: Path) -> None:
    got = codes(guarded.address, offered(certificates, "query"), CALLS)
    opened = {path.rpartition("/")[2] for path, code in got.items() if code is not REFUSED}
    assert opened == OPEN_TO_QUERY


def test_the_role_query_drives_no_device(device: str, certificates: Path) -> None:
    assert set(codes(device, offered(certificates, "query"), DEVICES).values()) == {REFUSED}
    got = codes(device, offered(certificates, "operate"), DEVICES)
    assert REFUSED not in got.values()
    assert got[f"/{DEVICE}/Describe"] is grpc.StatusCode.OK


def test_the_role_operate_opens_every_call(guarded: Running, certificates: Path) -> None:
    got = codes(guarded.address, offered(certificates, "operate"), CALLS)
    # Plan and Install refuse an empty bundle with the same status: it is unsigned.
    assert {path.rpartition("/")[2] for path, code in got.items() if code is REFUSED} <= {"Plan", "Install"}


def test_a_device_is_not_offered_to_other_machines_in_the_clear() -> None:
    with pytest.raises(CallerError, match="can be reached by other machines"):
        serve(lambda: connect_twin({"profile": "ideal"}), "0.0.0.0:0")
    serve(lambda: connect_twin({"profile": "ideal"}), "0.0.0.0:0", insecure=True).stop()
