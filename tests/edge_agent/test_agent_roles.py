"""Every call of every service of the protos, without a certificate, with a stranger's, and with the wrong role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from agent_fakes import Running, config_for, running
from hyle_agent.certificates import make_authority, make_identity
from hyle_agent.config import read_config
from hyle_agent.initial import write_initial
from hyle_protos.control import control_pb2
from hyle_protos.inference import inference_pb2
from hyle_protos.maintenance import maintenance_pb2
from hyle_protos.substrate import substrate_pb2
from test_agent_tls import credentials

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
}
# From the protos, so that a new call is tested before anyone thinks of it: it is closed to `query` until named above.
CALLS = [
    (f"/{service.full_name}/{method.name}", method)
    for module in (control_pb2, inference_pb2, maintenance_pb2, substrate_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
REFUSED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent") / "a"
    write_initial(folder)
    return folder


@pytest.fixture(params=["completion-queue", "aio"], scope="module")
def guarded(
    request: pytest.FixtureRequest, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    tls = read_config(certificates / "agent.toml").tls
    store = tmp_path_factory.mktemp("store")
    with running(config_for(store, insecure=False, tls=tls, engine=request.param)) as made:
        yield made


def offered(certificates: Path, who: str) -> grpc.ChannelCredentials:
    folder = certificates / "certs"
    if who == "nobody":
        return credentials(folder, with_certificate=False)
    authority = (folder / "authority.crt").read_bytes()
    if who in {"stranger", "roleless"}:
        from hyle_agent.certificates import Identity

        signer = make_authority("somebody") if who == "stranger" else authority_of(folder)
        assert isinstance(signer, Identity)
        made = folder.parent / who
        made.mkdir(exist_ok=True)
        for file in made.iterdir():
            file.unlink()
        make_identity(signer, who, role="operate" if who == "stranger" else None).write(made, "client")
        folder, who = made, "client"
    name = {"operate": "client"}.get(who, who)
    key, chain = ((folder / f"{name}.{kind}").read_bytes() for kind in ("key", "crt"))
    return grpc.ssl_channel_credentials(authority, key, chain)


def authority_of(folder: Path) -> object:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from hyle_agent.certificates import Identity

    certificate = x509.load_pem_x509_certificate((folder / "authority.crt").read_bytes())
    return Identity(certificate, load_pem_private_key((folder / "authority.key").read_bytes(), None))


def code_of(channel: grpc.Channel, path: str, method: object) -> grpc.StatusCode:
    """Status of one call with an empty message."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(channel, kind)(path)
    message = iter([b""]) if method.client_streaming else b""
    try:
        answer = call(message, timeout=20)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_the_protos_have_calls() -> None:
    assert len(CALLS) >= 20
    assert {method.name for _, method in CALLS} >= OPEN_TO_QUERY


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_nobody_without_the_authoritys_certificate_gets_to_any_call(
    guarded: Running, certificates: Path, who: str
) -> None:
    with grpc.secure_channel(guarded.address, offered(certificates, who)) as channel:
        for path, method in CALLS:
            assert code_of(channel, path, method) is grpc.StatusCode.UNAVAILABLE, path
    with grpc.insecure_channel(guarded.address) as channel:
        for path, method in CALLS:
            assert code_of(channel, path, method) is grpc.StatusCode.UNAVAILABLE, path


def test_a_certificate_without_a_role_opens_no_call(guarded: Running, certificates: Path) -> None:
    with grpc.secure_channel(guarded.address, offered(certificates, "roleless")) as channel:
        for path, method in CALLS:
            assert code_of(channel, path, method) is REFUSED, path


def test_the_role_query_opens_what_asks_and_nothing_that_changes(guarded: Running, certificates: Path) -> None:
    with grpc.secure_channel(guarded.address, offered(certificates, "query")) as channel:
        for path, method in CALLS:
            assert (code_of(channel, path, method) is not REFUSED) == (method.name in OPEN_TO_QUERY), path


def test_the_role_operate_opens_every_call(guarded: Running, certificates: Path) -> None:
    with grpc.secure_channel(guarded.address, offered(certificates, "operate")) as channel:
        for path, method in CALLS:
            code = code_of(channel, path, method)
            # Plan and Install refuse an empty bundle with the same status: it is unsigned.
            assert code is not REFUSED or method.name in {"Plan", "Install"}, path
