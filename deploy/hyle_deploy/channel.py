"""A gRPC channel to one agent: address, TLS, and bounded retries of the calls that are safe to repeat."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from hyle_errors import CallerError

__all__ = ["AddressError", "Tls", "TlsError", "open_channel"]

_REPEATABLE = {
    "inference.GRPCInferenceService": ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"],
    "hyle.control.v1.Control": ["Status", "Plan"],
}
_PEM = "Name a PEM file; `hyle agent init` writes them into certs/."
_RETRY = {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 3}


class AddressError(CallerError):
    """An address that is neither HOST:PORT nor unix:PATH."""


class TlsError(CallerError):
    """Certificates that cannot be read or do not make a pair."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What a connection is proven with; all of them PEM files.

    Attributes:
        ca: Certificates that the agent's must descend from; the system's by default.
        cert: The client's own certificate, where the agent asks for one.
        key: Its private key; given exactly when `cert` is.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            TlsError: A file cannot be read or is not PEM, only one of `cert` and `key` is given, they are no pair, or
                the key is encrypted.
        """
        if (self.cert is None) != (self.key is None):
            raise TlsError("A client certificate and its key belong together.", remedy="Give both --cert and --key.")
        if self.ca is not None:
            _check_certificates(self.ca)
        if self.cert is not None and self.key is not None:
            _check_certificates(self.cert)
            _check_pair(self.cert, self.key)
        ca, cert, key = (_read(path) if path else None for path in (self.ca, self.cert, self.key))
        return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}.", remedy="Name a readable PEM file.") from error


def _check_certificates(path: Path) -> None:
    _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise TlsError(f"{path} is no certificate in PEM.", remedy=_PEM) from error


def _check_pair(cert: Path, key: Path) -> None:
    def ask() -> str:
        remedy = f"Decrypt it into a file that only you may read: openssl pkey -in {key} -out FILE."
        raise TlsError(f"The key {key} is encrypted.", remedy=remedy)

    _read(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"{key} is not the private key of the certificate {cert}."
            raise TlsError(message, remedy="Give the two files that were made together.") from error
        raise TlsError(f"{key} is no private key in PEM.", remedy=_PEM) from error


def _check(address: str) -> None:
    if address.startswith("unix:") and len(address) > len("unix:") and "\0" not in address:
        return
    host, _, port = address.rpartition(":")
    plain = host.isprintable() and not any(map(str.isspace, host))
    if not host or not plain or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        message = f"{address!r} is neither HOST:PORT nor unix:PATH."
        raise AddressError(message, remedy="Give an agent's address, as in 127.0.0.1:8001.")


def _retries(attempts: int) -> str:
    policy = {**_RETRY, "maxAttempts": attempts}
    names = [{"service": service, "method": method} for service, methods in _REPEATABLE.items() for method in methods]
    answers = [{"service": "inference.GRPCInferenceService", "method": "ModelInfer"}]
    busy_too = ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    return json.dumps(
        {
            "methodConfig": [
                {"name": names, "retryPolicy": {**policy, "retryableStatusCodes": ["UNAVAILABLE"]}},
                {
                    "name": answers,
                    "retryPolicy": {**policy, "retryableStatusCodes": busy_too},
                },
            ]
        }
    )


def _options(attempts: int) -> Sequence[tuple[str, str | int]]:
    return (
        ("grpc.service_config", _retries(attempts)),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # An agent is a peer on the local network; a web proxy in the environment is not for it.
        ("grpc.enable_http_proxy", 0),
    )


def open_channel(address: str, tls: Tls | None = None, *, attempts: int = 4) -> grpc.Channel:
    """Open a channel; nothing is sent before the first call.

    Calls that only read, and inference, are repeated at most `attempts` times in all when the agent is
    unreachable (inference also when it is overloaded); calls that change the agent never are.

    Args:
        address: HOST:PORT, an IPv6 host in brackets; or unix:PATH.
        tls: Certificates, or None for a plain connection.
        attempts: Tries of a call that is safe to repeat, 2 to 5.

    Raises:
        AddressError: `address` is neither.
        TlsError: The certificates cannot be used.
    """
    _check(address)
    options = [*_options(attempts)]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    if address.startswith("unix:"):  # no certificate bears a path; who listens there is on this machine
        options.append(("grpc.ssl_target_name_override", "localhost"))
    return grpc.secure_channel(address, tls.credentials(), options=options)
