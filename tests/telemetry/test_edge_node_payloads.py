"""The edge node without a network, read by an independent decoder."""

from __future__ import annotations

import dataclasses
import math

from fleet_fakes import model, node
from hyle_agent.snapshot import ModelSnapshot, NodeSnapshot
from hyle_agent.telemetry.edge_node import EdgeNode, Sample
from hyle_agent.telemetry.metrics import (
    EVENT_FIELDS,
    MODEL_METRICS,
    NODE_METRICS,
    audit_rows,
    fit,
    print_audit,
    read_model,
)
from hyle_agent.telemetry.session import asks_for_rebirth
from hyle_protos.sparkplug.topic import REBIRTH
from hypothesis import given, settings
from hypothesis import strategies as st
from sparkplug_wire import BOOLEAN, DOUBLE, INT64, STRING, UINT32, UINT64, decode, rebirth_command

NAMES = st.text(min_size=1, max_size=80)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
VALUE_FIELD = {INT64: "long", UINT32: "int", UINT64: "long", DOUBLE: "double", BOOLEAN: "boolean", STRING: "string"}


def births(snapshot: NodeSnapshot, edge: EdgeNode | None = None) -> list:
    return list((edge or EdgeNode("hyle", "edge")).births(snapshot, bd_seq=7, at_ms=1000))


def test_a_node_birth_begins_the_sequence_and_carries_bdseq_and_an_unaliased_rebirth() -> None:
    message = births(node(model()))[0]
    payload = decode(message.payload)
    metrics = payload.by_name()
    assert (message.topic, message.qos, payload.seq, payload.timestamp) == ("spBv1.0/hyle/NBIRTH/edge", 0, 0, 1000)
    assert (metrics["bdSeq"].value, metrics["bdSeq"].datatype) == (7, INT64)
    rebirth = metrics["Node Control/Rebirth"]
    assert (rebirth.value, rebirth.datatype, rebirth.alias) == (False, BOOLEAN, None)


def test_births_carry_the_whole_allow_list_with_name_alias_type_time_and_value_or_null() -> None:
    first, second = births(node(model()))
    assert set(decode(first.payload).by_name()) == {m.name for m in NODE_METRICS} | {"bdSeq", "Node Control/Rebirth"}
    assert set(decode(second.payload).by_name()) == {m.name for m in MODEL_METRICS}
    for message in (first, second):
        for metric in decode(message.payload).metrics:
            assert metric.name
            assert metric.timestamp == 1000
            assert metric.value_fields == [VALUE_FIELD[metric.datatype]] or metric.is_null


def test_values_arrive_as_they_were_and_nan_as_null_without_a_value() -> None:
    payload = decode(births(node(model(p50_s=math.nan, p99_s=math.inf, requests=2**63)))[1].payload).by_name()
    assert (payload["requests"].value, payload["requests"].datatype) == (2**63, UINT64)
    assert payload["queue_depth"].value == 2
    assert payload["bundle/installed_slots"].value == "a,b"
    assert payload["latency/p90_s"].value == 0.002
    for name in ("latency/p50_s", "latency/p99_s"):
        assert payload[name].is_null
        assert payload[name].value_fields == []


@given(st.lists(NAMES, unique=True, max_size=6))
def test_aliases_are_unique_over_the_whole_node_and_topics_are_valid(names: list[str]) -> None:
    messages = births(node(*(model(name) for name in names)))
    aliases = [m.alias for message in messages for m in decode(message.payload).metrics if m.alias is not None]
    assert len(aliases) == len(set(aliases)) == 1 + len(NODE_METRICS) + len(names) * len(MODEL_METRICS)
    devices = [message.topic.split("/")[4:] for message in messages[1:]]
    assert all(len(device) == 1 and device[0] and not set("+#") & set(device[0]) for device in devices)
    assert len({device[0].lower() for device in devices}) == len(names)


def snapshots() -> st.SearchStrategy[NodeSnapshot]:
    models = st.builds(
        model,
        st.sampled_from(["a", "b", "c/d"]),
        requests=st.integers(-5, 2**65),
        p50_s=NUMBERS,
        ready=st.booleans(),
        reason=st.text(max_size=300),
        energy_j=NUMBERS,
        queue_depth=st.integers(-1, 2**33),
    )
    return st.builds(
        lambda found, uptime: node(*{m.name: m for m in found}.values(), uptime_s=uptime), st.lists(models), NUMBERS
    )


@settings(max_examples=60)
@given(st.lists(snapshots(), min_size=1, max_size=8))
def test_any_history_gives_an_unbroken_sequence_and_the_last_state(
    history: list[NodeSnapshot],
) -> None:
    edge = EdgeNode("hyle", "edge")
    messages = [
        *edge.births(history[0], 0, 1),
        *(m for at, s in enumerate(history[1:], 2) for m in edge.changes(s, at)),
    ]
    assert [decode(m.payload).seq for m in messages] == [number % 256 for number in range(len(messages))]
    known: dict[str, dict[str, object]] = {}
    aliases: dict[int, str] = {}
    for message in messages:
        kind, device = message.topic.split("/")[2], "/".join(message.topic.split("/")[4:])
        if kind == "DDEATH":
            del known[device]
            continue
        for metric in decode(message.payload).metrics:
            if kind.endswith("BIRTH") and metric.alias:
                aliases[metric.alias] = metric.name
            assert kind.endswith("BIRTH") or metric.name is None
            if metric.alias:
                known.setdefault(device, {})[aliases[metric.alias]] = metric.value
    live = {device: values for device, values in known.items() if device}
    assert sorted(values["model"] for values in live.values()) == sorted(m.name for m in history[-1].models)
    for last in history[-1].models:
        (values,) = (values for values in live.values() if values["model"] == last.name)
        assert values == dict(read_model(last))


def test_the_sequence_returns_to_zero_after_255() -> None:
    edge = EdgeNode("hyle", "edge")
    births(node(), edge)
    found = [decode(m.payload).seq for n in range(600) for m in edge.changes(node(uptime_s=10.0 + n), n)]
    assert found == [(n + 1) % 256 for n in range(600)]


def test_nothing_is_sent_when_nothing_changed_and_only_what_changed_otherwise() -> None:
    edge = EdgeNode("hyle", "edge")
    births(node(model(p50_s=math.nan)), edge)
    assert list(edge.changes(node(model(p50_s=math.nan)), 2)) == []
    (message,) = edge.changes(node(model(p50_s=math.nan, requests=6)), 3)
    assert message.topic == "spBv1.0/hyle/DDATA/edge/lenet"
    assert [metric.value for metric in decode(message.payload).metrics] == [6]


def test_a_model_that_goes_dies_and_one_that_comes_is_born_with_its_old_aliases() -> None:
    edge = EdgeNode("hyle", "edge")
    first = decode(births(node(model()), edge)[1].payload)
    (death,) = edge.changes(node(), 2)
    assert (death.topic, death.qos, decode(death.payload).seq) == ("spBv1.0/hyle/DDEATH/edge/lenet", 0, 2)
    assert decode(death.payload).timestamp == 2
    (birth,) = edge.changes(node(model()), 3)
    assert birth.topic == "spBv1.0/hyle/DBIRTH/edge/lenet"
    assert [m.alias for m in decode(birth.payload).metrics] == [m.alias for m in first.metrics]


def test_the_death_of_a_node_carries_bdseq_alone_and_no_sequence_number() -> None:
    message = EdgeNode("hyle", "edge").death(9)
    payload = decode(message.payload)
    assert (message.topic, message.qos, payload.seq) == ("spBv1.0/hyle/NDEATH/edge", 1, None)
    assert [(m.name, m.value, m.datatype) for m in payload.metrics] == [("bdSeq", 9, INT64)]


def test_samples_kept_offline_are_sent_as_historical_with_the_time_they_were_taken() -> None:
    edge = EdgeNode("hyle", "edge")
    kept = [s for at in (10, 20, 30) for s in edge.offline(node(model(requests=at), uptime_s=5.0), at)]
    assert [(s.at_ms, s.model) for s in kept] == [(10, ""), (10, "lenet"), (20, "lenet"), (30, "lenet")]
    births(node(model()), edge)
    messages = list(edge.historical(kept, 99))
    assert [m.topic.split("/")[2] for m in messages] == ["NDATA", "DDATA", "DDATA", "DDATA"]
    for message, sample in zip(messages, kept, strict=True):
        assert all(m.is_historical and m.timestamp == sample.at_ms for m in decode(message.payload).metrics)
    assert [m.value for m in decode(messages[2].payload).metrics] == [20]


def test_samples_of_models_that_are_gone_and_of_names_nobody_knows_are_not_sent() -> None:
    edge = EdgeNode("hyle", "edge")
    births(node(), edge)
    assert list(edge.historical([Sample(1, "gone", {"requests": 1})], 2)) == []
    (message,) = edge.historical([Sample(1, "", {"secret": 1, "agent/uptime_s": "no number", "agent/version": "1"})], 2)
    sent = [(m.is_null, m.value) for m in decode(message.payload).metrics]
    assert sorted(sent, key=str) == [(False, "1"), (True, None)]


def test_only_scalars_of_the_named_fields_can_pass_the_allow_list() -> None:
    fields = {f.name for f in dataclasses.fields(NodeSnapshot)} - {"node", "models"}
    assert {m.field for m in NODE_METRICS} == fields
    assert {m.field for m in MODEL_METRICS} == {f.name for f in dataclasses.fields(ModelSnapshot)}
    for metric in (*NODE_METRICS, *MODEL_METRICS):
        for smuggled in ([1.0, 2.0], b"tensor", {"a": 1}, object(), 1j):
            assert fit(metric, smuggled) is None
        assert fit(metric, "x" * 10_000) in {None, "x" * 200}
    names = [m.name.lower() for m in MODEL_METRICS]
    assert len(set(names)) == len(names)


def test_the_audit_prints_every_metric_with_its_type_and_unit() -> None:
    lines: list[str] = []
    print_audit(lines.append)
    assert len(lines) == 1 + len(NODE_METRICS) + len(MODEL_METRICS) + len(EVENT_FIELDS) == 1 + len(audit_rows())
    assert any("latency/p99_s" in line and "Double" in line and " s " in line for line in lines)


@given(st.binary(max_size=400).filter(lambda data: REBIRTH.encode() not in data))
def test_garbage_is_no_command(data: bytes) -> None:
    assert asks_for_rebirth(data) is False


@given(st.integers(0, 60), st.integers(0, 255))
def test_a_damaged_command_never_raises(at: int, byte: int) -> None:
    command = bytearray(rebirth_command())
    command[at % len(command)] = byte
    assert asks_for_rebirth(bytes(command)) in {True, False}


def test_the_request_for_rebirth_is_understood_and_its_denial_too() -> None:
    assert asks_for_rebirth(rebirth_command())
    assert not asks_for_rebirth(rebirth_command(value=False))
