"""The state of a fleet, built from its Sparkplug B messages; knows no network."""

from __future__ import annotations

from dataclasses import dataclass, field

from hyle_protos.sparkplug.sparkplug_b_pb2 import DataType, Payload
from hyle_protos.sparkplug.topic import BIRTH_DEATH_SEQUENCE, REBIRTH, Topic
from hyle_protos.sparkplug.value import Scalar, parse_payload, read_value

__all__ = ["Device", "Fleet", "Node", "rebirth_request"]

_SEQUENCE_LENGTH = 256
_MOST_NODES = 10_000
_MOST_DEVICES = 1_000
_MOST_METRICS = 10_000
_CONTROL = frozenset({BIRTH_DEATH_SEQUENCE, REBIRTH})


@dataclass(slots=True)
class Device:
    """A device of an edge node; for hyle, one model of an agent.

    Attributes:
        online: Between its birth and its death.
        metrics: Last current values, by name; None for null.
        units: Units that the birth gave, by name.
        historical: Values received that were taken earlier, while the node had no broker.
    """

    online: bool = False
    metrics: dict[str, Scalar | None] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    historical: int = 0


@dataclass(slots=True)
class Node(Device):
    """An edge node; for hyle, one agent.

    Attributes:
        devices: Its devices, by their id in topics.
        birth_death: Number of the connection that its births belong to; None before any.
        messages: Messages received of it.
        births: Node births among them.
        gaps: Breaks found in the sequence of its messages.
        stale: Something was missed; the values are those of before, until the next birth.
        last_seen: When the last message came, seconds since the epoch.
        next_sequence: Number that its next message must bear.
        names: Device, metric and type of each alias.
    """

    devices: dict[str, Device] = field(default_factory=dict)
    birth_death: int | None = None
    messages: int = 0
    births: int = 0
    gaps: int = 0
    stale: bool = False
    last_seen: float = 0.0
    next_sequence: int | None = None
    names: dict[int, tuple[str, str, int]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """`online`, `stale` (lives, but its births are awaited) or `offline`."""
        return "stale" if self.stale else "online" if self.online else "offline"


@dataclass(slots=True)
class Fleet:
    """All nodes heard of, by group and node.

    Attributes:
        nodes: Their state.
        refused: Messages on Sparkplug topics that no payload could be read from, or beyond the bounds kept.
    """

    nodes: dict[tuple[str, str], Node] = field(default_factory=dict)
    refused: int = 0

    def apply(self, topic: str, data: bytes, at: float) -> tuple[str, str] | None:
        """Take in one message.

        Args:
            topic: Its MQTT topic; those of commands and of others are passed over.
            data: Its payload, of any origin.
            at: When it came, seconds since the epoch.

        Returns:
            Group and node that should be asked for births, because what came cannot be understood or something is
            missing before it; None when all is well.
        """
        address = Topic.parse(topic)
        if address is None or address.kind.endswith("CMD"):
            return None
        key = (address.group, address.node)
        payload = parse_payload(data)
        if payload is None or (key not in self.nodes and len(self.nodes) >= _MOST_NODES):
            self.refused += 1
            return None
        node = self.nodes.setdefault(key, Node())
        node.messages += 1
        node.last_seen = at
        return None if _apply(node, address, payload) else key

    def lose_sight(self) -> None:
        """Note that messages may have been missed: what was online is stale until its next birth."""
        for node in self.nodes.values():
            node.stale = node.stale or node.online

    def to_json(self) -> list[dict[str, object]]:
        """The fleet as one JSON-able list, ordered by group and node."""
        return [_node_json(group, name, node) for (group, name), node in sorted(self.nodes.items())]


def rebirth_request(group: str, node: str, at_ms: int) -> tuple[str, bytes]:
    """Topic and payload of the command that asks an edge node for its births.

    Args:
        group: Sparkplug group.
        node: Edge node.
        at_ms: Now, milliseconds since the epoch.
    """
    payload = Payload(timestamp=at_ms)
    payload.metrics.add(name=REBIRTH, datatype=DataType.Boolean, timestamp=at_ms, boolean_value=True)
    return str(Topic(group, "NCMD", node)), payload.SerializeToString()


def _apply(node: Node, address: Topic, payload: Payload) -> bool:
    """Take one message into a node's state; False when births are needed."""
    if address.kind == "NDEATH":
        if _birth_death(payload) == node.birth_death:
            _die(node)
        return True
    if address.kind == "NBIRTH":
        _be_born(node, payload)
    if not node.online or node.stale or not _in_sequence(node, payload):
        node.stale = True
        return False
    return _apply_to_device(node, address, payload)


def _apply_to_device(node: Node, address: Topic, payload: Payload) -> bool:
    if address.kind in {"NBIRTH", "DBIRTH"}:
        if address.device and address.device not in node.devices and len(node.devices) >= _MOST_DEVICES:
            return True
        device = node.devices.setdefault(address.device, Device()) if address.device else node
        device.online = True
        _define(node, device, address.device, payload)
        return True
    if address.kind == "DDEATH":
        if address.device in node.devices:
            node.devices[address.device].online = False
        return True
    understood = [_update(node, address.device, metric) for metric in payload.metrics]
    return all(understood)


def _be_born(node: Node, payload: Payload) -> None:
    node.online, node.stale = True, False
    node.births += 1
    node.birth_death = _birth_death(payload)
    node.next_sequence = payload.seq
    node.names.clear()
    for device in node.devices.values():
        device.online = False


def _die(node: Node) -> None:
    node.online = node.stale = False
    for device in node.devices.values():
        device.online = False


def _in_sequence(node: Node, payload: Payload) -> bool:
    expected, node.next_sequence = node.next_sequence, (payload.seq + 1) % _SEQUENCE_LENGTH
    if payload.HasField("seq") and payload.seq == expected:
        return True
    node.gaps += 1
    return False


def _define(node: Node, device: Device, name: str, payload: Payload) -> None:
    """Take a birth's names, types, units and values."""
    device.metrics.clear()
    for metric in payload.metrics[:_MOST_METRICS]:
        if metric.HasField("alias") and len(node.names) < _MOST_METRICS:
            node.names[metric.alias] = (name, metric.name, metric.datatype)
        if metric.name not in _CONTROL:
            device.metrics[metric.name] = read_value(metric, metric.datatype)
            if unit := _unit(metric):
                device.units[metric.name] = unit


def _update(node: Node, device: str, metric: Payload.Metric) -> bool:
    """Take one value of data; False when no birth has named it."""
    owner, name, datatype = device, metric.name, metric.datatype
    if metric.HasField("alias"):
        if metric.alias not in node.names:
            return False
        owner, name, datatype = node.names[metric.alias]
    target = node.devices.get(owner) if owner else node
    if owner != device or target is None or name not in target.metrics:
        return False
    if metric.is_historical:
        target.historical += 1
    else:
        target.metrics[name] = read_value(metric, datatype)
    return True


def _birth_death(payload: Payload) -> int | None:
    found = [metric for metric in payload.metrics if metric.name == BIRTH_DEATH_SEQUENCE]
    return int(found[0].long_value or found[0].int_value) if found else None


def _unit(metric: Payload.Metric) -> str:
    pairs = zip(metric.properties.keys, metric.properties.values, strict=False)
    return next((value.string_value for key, value in pairs if key == "engUnit"), "")


def _node_json(group: str, name: str, node: Node) -> dict[str, object]:
    return {
        "group": group,
        "node": name,
        "state": node.state,
        "metrics": dict(node.metrics),
        "models": {
            key: {"online": device.online, "metrics": dict(device.metrics)}
            for key, device in sorted(node.devices.items())
        },
        "messages": node.messages,
        "births": node.births,
        "gaps": node.gaps,
        "historical": node.historical + sum(device.historical for device in node.devices.values()),
        "last_seen": node.last_seen,
    }
