"""Topics and identifiers of Sparkplug B 3.0, for those who publish and those who read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = ["BIRTH_DEATH_SEQUENCE", "NAMESPACE", "REBIRTH", "Topic", "is_valid_id", "safe_id"]

NAMESPACE = "spBv1.0"
BIRTH_DEATH_SEQUENCE = "bdSeq"
REBIRTH = "Node Control/Rebirth"

_NODE_KINDS = frozenset({"NBIRTH", "NDATA", "NDEATH", "NCMD"})
_DEVICE_KINDS = frozenset({"DBIRTH", "DDATA", "DDEATH", "DCMD"})
_RESERVED = frozenset("+/#")
_LONGEST_ID = 64


@dataclass(frozen=True, slots=True)
class Topic:
    """Address of one message of an edge node.

    Attributes:
        group: Group of edge nodes.
        kind: Message type, such as `NBIRTH`.
        node: Edge node, unique in its group.
        device: Device of that node; empty for the node's own messages.
    """

    group: str
    kind: str
    node: str
    device: str = ""

    def __str__(self) -> str:
        parts = (NAMESPACE, self.group, self.kind, self.node, self.device)
        return "/".join(parts if self.device else parts[:-1])

    @classmethod
    def parse(cls, text: str) -> Topic | None:
        """Read a topic; None for what is no edge node's message."""
        namespace, *rest = text.split("/")
        if namespace != NAMESPACE or not all(rest):
            return None
        if len(rest) == 3 and rest[1] in _NODE_KINDS:
            return cls(rest[0], rest[1], rest[2])
        if len(rest) == 4 and rest[1] in _DEVICE_KINDS:
            return cls(rest[0], rest[1], rest[2], rest[3])
        return None


def is_valid_id(text: str) -> bool:
    """Whether a text may stand as group, node or device in a topic: not empty, printable, no `+`, `/`, `#`."""
    return 0 < len(text) <= _LONGEST_ID and text.isprintable() and not _RESERVED & set(text)


def safe_id(name: str) -> str:
    """Turn any name into one that may stand in a topic.

    Args:
        name: A valid name comes back as it is. Of any other, reserved and unprintable characters become `_`, and the
            first eight digits of the name's SHA-256 are appended, so that two names stay two.

    Returns:
        At most 64 characters.
    """
    if is_valid_id(name):
        return name
    mark = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    kept = "".join("_" if c in _RESERVED or not c.isprintable() else c for c in name)
    return f"{kept[: _LONGEST_ID - 9]}-{mark}"
