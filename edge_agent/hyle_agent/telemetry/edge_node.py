"""The edge node's side of Sparkplug B 3.0 without a network: snapshots in, messages out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
from hyle_protos.sparkplug.sparkplug_b_pb2 import DataType, Payload
from hyle_protos.sparkplug.topic import BIRTH_DEATH_SEQUENCE, REBIRTH, Topic, safe_id
from hyle_protos.sparkplug.value import Scalar, write_value

from hyle_agent.snapshot import NodeSnapshot
from hyle_agent.telemetry.metrics import MODEL_METRICS, NODE_METRICS, Metric, Readings, fit, read_model, read_node

__all__ = ["SEQUENCE_LENGTH", "EdgeNode", "Message", "Sample"]

SEQUENCE_LENGTH = 256
_NODE = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message, never retained.

    Attributes:
        topic: Topic.
        payload: Serialized Sparkplug payload.
        qos: 1 for a node's death, 0 for all else.
    """

    topic: str
    payload: bytes
    qos: int = 0


class Sample(msgspec.Struct, frozen=True):
    """What changed on the node, or on one model, at one time; kept while nobody listens.

    Attributes:
        at_ms: When it was read, milliseconds since the epoch.
        model: The model's name, "" for the node.
        values: Metric names and values.
    """

    at_ms: int
    model: str
    values: dict[str, Scalar | None]


@dataclass(slots=True)
class EdgeNode:
    """Births, data and deaths of one node and its models, in the order that they must be sent.

    Not thread-safe: one thread owns it.

    Args:
        group: Sparkplug group.
        node: Sparkplug edge node.
    """

    group: str
    node: str
    _next_sequence: int = 0
    _aliases: dict[tuple[str, str], int] = field(default_factory=dict)
    _devices: dict[str, str] = field(default_factory=dict)
    _sent: dict[str, Readings] = field(default_factory=dict)
    _kept: dict[str, Readings] = field(default_factory=dict)

    def topic(self, kind: str, model: str = _NODE) -> str:
        """Topic of a message of this node, or of one of its models."""
        return str(Topic(self.group, kind, self.node, self._device(model) if model else ""))

    def death(self, bd_seq: int) -> Message:
        """The node's death: the will of a connection, and what a clean stop says itself."""
        payload = Payload()
        _add_bd_seq(payload, bd_seq)
        return Message(self.topic("NDEATH"), payload.SerializeToString(), qos=1)

    def births(self, snapshot: NodeSnapshot, bd_seq: int, at_ms: int) -> Iterator[Message]:
        """The node's birth and one for each model; begins the sequence anew.

        Args:
            snapshot: State to report in full.
            bd_seq: Number of the connection, as its will says it.
            at_ms: Now, milliseconds since the epoch.
        """
        self._next_sequence = 0
        self._sent.clear()
        self._kept.clear()
        payload = self._payload(at_ms)
        _add_bd_seq(payload, bd_seq, at_ms, alias=self._alias(_NODE, BIRTH_DEATH_SEQUENCE))
        rebirth = payload.metrics.add(name=REBIRTH, datatype=DataType.Boolean, timestamp=at_ms)
        rebirth.boolean_value = False
        yield self._birth("NBIRTH", payload, _NODE, read_node(snapshot), at_ms)
        for model in snapshot.models:
            yield self._birth("DBIRTH", self._payload(at_ms), model.name, read_model(model), at_ms)

    def changes(self, snapshot: NodeSnapshot, at_ms: int) -> Iterator[Message]:
        """What differs from what was sent last: deaths and births of models, then data.

        Args:
            snapshot: State now.
            at_ms: Now, milliseconds since the epoch.
        """
        present = {model.name for model in snapshot.models}
        for gone in [name for name in self._sent if name != _NODE and name not in present]:
            del self._sent[gone]
            yield Message(self.topic("DDEATH", gone), self._payload(at_ms).SerializeToString())
        yield from self._data("NDATA", _NODE, read_node(snapshot), at_ms)
        for model in snapshot.models:
            readings = read_model(model)
            if model.name in self._sent:
                yield from self._data("DDATA", model.name, readings, at_ms)
            else:
                yield self._birth("DBIRTH", self._payload(at_ms), model.name, readings, at_ms)

    def offline(self, snapshot: NodeSnapshot, at_ms: int) -> Iterator[Sample]:
        """What differs from what was sent or kept last, to be kept until somebody listens.

        Args:
            snapshot: State now.
            at_ms: Now, milliseconds since the epoch.
        """
        current = {_NODE: read_node(snapshot), **{model.name: read_model(model) for model in snapshot.models}}
        for name, readings in current.items():
            before = self._kept.get(name, self._sent.get(name, {}))
            self._kept[name] = readings
            if changed := _difference(before, readings):
                yield Sample(at_ms, name, changed)

    def historical(self, samples: Sequence[Sample], at_ms: int) -> Iterator[Message]:
        """Kept samples as data that are marked historical; those of models that are not born now are left out.

        Args:
            samples: As `offline` gave them, oldest first.
            at_ms: Now, milliseconds since the epoch.
        """
        for sample in samples:
            if sample.model not in self._sent:
                continue
            payload = self._payload(at_ms)
            for metric in self._add(payload, sample.model, sample.values, sample.at_ms):
                metric.is_historical = True
            kind = "DDATA" if sample.model else "NDATA"
            yield Message(self.topic(kind, sample.model), payload.SerializeToString())

    def _device(self, model: str) -> str:
        if model not in self._devices:
            device, taken = safe_id(model), {id_.lower() for id_ in self._devices.values()}
            self._devices[model] = safe_id(f"{model}#") if device.lower() in taken else device
        return self._devices[model]

    def _alias(self, model: str, name: str) -> int:
        return self._aliases.setdefault((model, name), len(self._aliases) + 1)

    def _payload(self, at_ms: int) -> Payload:
        sequence, self._next_sequence = self._next_sequence, (self._next_sequence + 1) % SEQUENCE_LENGTH
        return Payload(timestamp=at_ms, seq=sequence)

    def _birth(self, kind: str, payload: Payload, model: str, readings: Readings, at_ms: int) -> Message:
        self._sent[model] = readings
        self._kept.pop(model, None)
        for metric, entry in zip(self._add(payload, model, readings, at_ms), _table(model), strict=True):
            metric.name, metric.datatype = entry.name, entry.datatype
            if entry.unit:
                metric.properties.keys.append("engUnit")
                metric.properties.values.add(type=DataType.String, string_value=entry.unit)
        return Message(self.topic(kind, model), payload.SerializeToString())

    def _data(self, kind: str, model: str, readings: Readings, at_ms: int) -> Iterator[Message]:
        changed = _difference(self._sent.get(model, {}), readings)
        self._sent[model] = readings
        self._kept.pop(model, None)
        if changed:
            payload = self._payload(at_ms)
            self._add(payload, model, changed, at_ms)
            yield Message(self.topic(kind, model), payload.SerializeToString())

    def _add(self, payload: Payload, model: str, values: Readings, at_ms: int) -> list[Payload.Metric]:
        """Append those values that the allow-list names, by alias."""
        added = []
        for entry in _table(model):
            if entry.name in values:
                metric = payload.metrics.add(alias=self._alias(model, entry.name), timestamp=at_ms)
                write_value(metric, entry.datatype, fit(entry, values[entry.name]))
                added.append(metric)
        return added


def _table(model: str) -> Iterable[Metric]:
    return MODEL_METRICS if model else NODE_METRICS


def _difference(before: Readings, after: Readings) -> dict[str, Scalar | None]:
    return {name: value for name, value in after.items() if name not in before or before[name] != value}


def _add_bd_seq(payload: Payload, bd_seq: int, at_ms: int | None = None, alias: int | None = None) -> None:
    payload.metrics.add(
        name=BIRTH_DEATH_SEQUENCE, alias=alias, timestamp=at_ms, datatype=DataType.Int64, long_value=bd_seq
    )
