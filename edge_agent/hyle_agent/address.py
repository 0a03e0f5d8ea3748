"""Where an agent listens, and who can reach it there."""

from __future__ import annotations

import ipaddress

import msgspec

from hyle_agent.errors import ConfigError

__all__ = ["Address", "parse_address"]


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
        ConfigError: It is not one; the message names `field`.
    """
    if text.startswith("unix:") and len(text) > len("unix:"):
        return Address(text, 0)
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(
            f"{field}: expected HOST:PORT or unix:PATH, got {text!r}.", remedy="Write it like 127.0.0.1:8500."
        )
    return Address(host, int(port))
