"""What both engines need to listen: the target, the options, the certificates."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc

from hyle_agent.address import Address
from hyle_agent.config import Tls
from hyle_agent.errors import ConfigError

__all__ = ["cannot_listen", "credentials", "read_tls_file", "server_options", "target"]

_ANSWERS_S = 1.0


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Return the channel arguments of the server."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]


def target(address: Address) -> str:
    """Return an address as grpc takes it.

    Raises:
        ConfigError: It is a socket in the file system at which somebody listens; grpc would take its name away.
    """
    if not address.unix:
        return f"{address.host}:{address.port}"
    if _is_listened_at(address.host.removeprefix("unix:")):
        raise cannot_listen(address.host)
    return address.host


def credentials(tls: Tls) -> Any:
    """Read the certificates.

    Raises:
        ConfigError: A file cannot be read.
    """
    certificate, key = read_tls_file(tls.certificate, "certificate"), read_tls_file(tls.key, "key")
    if not tls.client_ca:
        return grpc.ssl_server_credentials([(key, certificate)])
    authority = read_tls_file(tls.client_ca, "client_ca")
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


def read_tls_file(path: str, field: str) -> bytes:
    """Read one file of the table `tls`.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        message = f"tls.{field}: {path} cannot be read: {error.strerror}."
        raise ConfigError(message, remedy="Make it with `hyle agent init`.") from error


def _is_listened_at(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWERS_S)
        try:
            probe.connect(path)
        except (TimeoutError, BlockingIOError):  # there is a queue, and it is full
            return True
        except OSError:
            return False
    return True


def cannot_listen(where: str) -> ConfigError:
    """Return what is raised when an address cannot be listened on."""
    remedy = "Choose another address with --listen, or stop what uses this one."
    return ConfigError(f"listen: nothing can listen on {where}.", remedy=remedy)
