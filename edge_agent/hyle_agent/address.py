"""Where an agent listens, and who can reach it there."""

from __future__ import annotations

import ipaddress
import os

import msgspec

from hyle_agent.errors import ConfigError

__all__ = ["Address", "parse_address"]

_LONGEST_SOCKET = 107  # bytes, unix(7)


class Address(msgspec.Struct, frozen=True):
    """A host and a port; `host` is `unix:PATH` and `port` 0 for a socket in the file system."""

    host: str
    port: int

    @property
    def unix(self) -> bool:
        """Whether it is a socket in the file system."""
        return self.host.startswith("unix:")

    def at(self, port: int) -> str:
        """Return the address as text, with the port that was given."""
        return self.host if self.unix else f"{self.host}:{port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.unix:
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(text: str, field: str) -> Address:
    """Read `HOST:PORT` or `unix:PATH`; an IPv6 host stands in brackets.

    Raises:
        ConfigError: It is not one, or longer than a socket's path may be; the message names `field`.
    """
    if text.startswith("unix:") and len(text) > len("unix:"):
        return _socket(text, field)
    host, _, port = text.rpartition(":")
    plain = host.isprintable() and not any(map(str.isspace, host))
    if not host or not plain or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(
            f"{field}: expected HOST:PORT or unix:PATH, got {text!r}.", remedy="Write it like 127.0.0.1:8500."
        )
    return Address(host, int(port))


def _socket(text: str, field: str) -> Address:
    path = text.removeprefix("unix:")
    if "\0" in path or len(os.fsencode(path)) > _LONGEST_SOCKET:
        message = f"{field}: expected unix: and the path of a socket, at most {_LONGEST_SOCKET} bytes, got {text!r}."
        raise ConfigError(message, remedy="Name a socket in a folder with a shorter path, such as /run/hyle.")
    return Address(text, 0)
