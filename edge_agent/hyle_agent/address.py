"""Where an agent listens, and who can reach it there."""

from __future__ import annotations

import ipaddress

import msgspec

from hyle_agent.errors import ConfigError

__all__ = ["Address", "parse_address"]


class Address(msgspec.Struct, frozen=True):
    """A host and a port."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(text: str, field: str) -> Address:
    """Read `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        ConfigError: It is not one; the message names `field`.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{field}: expected HOST:PORT, got {text!r}.", remedy="Write it like 127.0.0.1:8500.")
    return Address(host, int(port))
