"""A reader of Sparkplug B payloads by protobuf's wire rules alone: it shares no code with what it checks."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

PAYLOAD = {1: "timestamp", 2: "metrics", 3: "seq", 4: "uuid", 5: "body"}
METRIC = {
    **{1: "name", 2: "alias", 3: "timestamp", 4: "datatype", 5: "is_historical", 6: "is_transient", 7: "is_null"},
    **{8: "metadata", 9: "properties", 10: "int", 11: "long", 12: "float", 13: "double", 14: "boolean", 15: "string"},
    **{16: "bytes", 17: "dataset", 18: "template"},
}
VALUES = ("int", "long", "float", "double", "boolean", "string", "bytes", "dataset", "template")
INT64, UINT32, UINT64, DOUBLE, BOOLEAN, STRING = 4, 7, 8, 10, 11, 12


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
        assert shift < 70, "a varint of more than ten bytes"


def fields(data: bytes) -> list[tuple[int, int | bytes]]:
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value: int | bytes
            value, at = varint(data, at)
        else:
            size, at = varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            assert at + size <= len(data), "a field beyond the end"
            value, at = data[at : at + size], at + size
        found.append((number, value))
    return found


def named(data: bytes, names: dict[int, str]) -> dict[str, int | bytes]:
    found = fields(data)
    assert {number for number, _ in found} <= set(names), "a field that the standard does not have"
    assert len({number for number, _ in found}) == len(found), "a single field that comes twice"
    return {names[number]: value for number, value in found}


@dataclass
class WireMetric:
    raw: dict[str, int | bytes]

    @property
    def name(self) -> str | None:
        return self.raw["name"].decode() if "name" in self.raw else None

    @property
    def alias(self) -> int | None:
        return self.raw.get("alias")

    @property
    def datatype(self) -> int | None:
        return self.raw.get("datatype")

    @property
    def timestamp(self) -> int | None:
        return self.raw.get("timestamp")

    @property
    def is_null(self) -> bool:
        return bool(self.raw.get("is_null", 0))

    @property
    def is_historical(self) -> bool:
        return bool(self.raw.get("is_historical", 0))

    @property
    def value_fields(self) -> list[str]:
        return [name for name in VALUES if name in self.raw]

    @property
    def value(self) -> object:
        (kind,) = self.value_fields or (None,)
        raw = self.raw.get(kind)
        return {
            None: lambda: None,
            "int": lambda: raw,
            "long": lambda: raw - (1 << 64) if self.datatype == INT64 and raw >> 63 else raw,
            "float": lambda: struct.unpack("<f", raw)[0],
            "double": lambda: struct.unpack("<d", raw)[0],
            "boolean": lambda: bool(raw),
            "string": lambda: raw.decode(),
        }[kind]()


@dataclass
class WirePayload:
    timestamp: int | None
    seq: int | None
    metrics: list[WireMetric] = field(default_factory=list)

    def by_name(self) -> dict[str | None, WireMetric]:
        return {metric.name: metric for metric in self.metrics}


def decode(data: bytes) -> WirePayload:
    found = fields(data)
    assert {number for number, _ in found} <= set(PAYLOAD)
    single = {PAYLOAD[number]: value for number, value in found if number != 2}
    metrics = [WireMetric(named(value, METRIC)) for number, value in found if number == 2]
    return WirePayload(single.get("timestamp"), single.get("seq"), metrics)


def put_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def rebirth_command(value: bool = True) -> bytes:
    """NCMD payload by hand: timestamp, and one Boolean metric `Node Control/Rebirth`."""
    name = b"Node Control/Rebirth"
    metric = b"\x0a" + put_varint(len(name)) + name + b"\x20" + put_varint(BOOLEAN) + b"\x70" + put_varint(int(value))
    return b"\x08" + put_varint(1_700_000_000_000) + b"\x12" + put_varint(len(metric)) + metric
