"""Roles in certificates: what a caller may do stands in its certificate as a URI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hyle_agent.engine import Method, Role
from hyle_agent.errors import ForbiddenError

__all__ = ["check_role", "role_uri"]

_PREFIX = "urn:hyle:role:"
_ALLOWS: Mapping[Role, frozenset[Role]] = {
    "query": frozenset({"query"}),
    "operate": frozenset({"query", "operate"}),
}
_NAMES = ("peer_uri", "x509_subject_alternative_name")


def role_uri(role: Role) -> str:
    """Return the URI that stands for a role among a certificate's subject alternative names."""
    return _PREFIX + role


def check_role(method: Method, identity: Mapping[str, Sequence[bytes]]) -> None:
    """Refuse a caller whose certificate does not allow a method.

    Args:
        method: What it asks for.
        identity: The properties of its authentication, as grpc gives them.

    Raises:
        ForbiddenError: None of its roles allows the method.
    """
    said = {value.decode("utf-8", "replace") for name in _NAMES for value in identity.get(name, ())}
    roles = [role for role in _ALLOWS if role_uri(role) in said]
    if any(method.role in _ALLOWS[role] for role in roles):
        return
    message = f"The call needs the role {method.role!r}; the certificate has {' and '.join(roles) or 'none'}."
    raise ForbiddenError(message, remedy="Use a certificate with that role; `hyle agent init` makes one of each.")
