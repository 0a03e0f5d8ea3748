"""The watcher's picture of a fleet, fed with an edge node's own messages and with garbage."""

from __future__ import annotations

import math

import pytest
from fleet_fakes import model, node
from hyle_agent.telemetry.edge_node import EdgeNode, Message
from hyle_deploy.sparkplug import Fleet, rebirth_request
from hyle_protos.sparkplug.topic import Topic, is_valid_id, safe_id
from hyle_protos.sparkplug.value import parse_payload, read_value, write_value
from hypothesis import example, given
from hypothesis import strategies as st
from sparkplug_wire import decode

KEY = ("hyle", "edge")


def born(fleet: Fleet, edge: EdgeNode, bd_seq: int = 0) -> None:
    for message in edge.births(node(model(p50_s=math.nan)), bd_seq, 1):
        assert apply(fleet, message) is None


def apply(fleet: Fleet, message: Message, at: float = 1.0) -> tuple[str, str] | None:
    return fleet.apply(message.topic, message.payload, at)


def test_births_and_data_make_the_state_of_a_node_and_its_models() -> None:
    fleet, edge = Fleet(), EdgeNode("hyle", "edge")
    born(fleet, edge)
    for message in edge.changes(node(model(requests=77), uptime_s=9.0), 2):
        assert apply(fleet, message, 5.0) is None
    (seen,) = fleet.to_json()
    assert (seen["state"], seen["messages"], seen["births"], seen["gaps"], seen["last_seen"]) == (
        "online",
        4,
        1,
        0,
        5.0,
    )
    assert seen["metrics"]["agent/uptime_s"] == 9.0
    lenet = seen["models"]["lenet"]
    assert lenet["online"]
    assert (lenet["metrics"]["requests"], lenet["metrics"]["latency/p50_s"]) == (77, 0.001)
    assert fleet.nodes[KEY].devices["lenet"].units["latency/p50_s"] == "s"
    assert "bdSeq" not in seen["metrics"]


def test_a_missing_message_makes_the_node_stale_until_its_next_birth() -> None:
    fleet, edge = Fleet(), EdgeNode("hyle", "edge")
    born(fleet, edge)
    list(edge.changes(node(model(requests=8), uptime_s=2.0), 2))
    (late,) = edge.changes(node(model(requests=9), uptime_s=2.0), 3)
    assert apply(fleet, late) == KEY
    assert (fleet.nodes[KEY].state, fleet.nodes[KEY].gaps) == ("stale", 1)
    (more,) = edge.changes(node(model(requests=10), uptime_s=2.0), 3)
    assert apply(fleet, more) == KEY
    assert fleet.nodes[KEY].gaps == 1
    born(fleet, edge)
    assert fleet.nodes[KEY].state == "online"


def test_a_node_that_is_heard_of_late_is_asked_for_its_births() -> None:
    fleet, edge = Fleet(), EdgeNode("hyle", "edge")
    list(edge.births(node(model()), 0, 1))
    (data,) = edge.changes(node(model(requests=9)), 2)
    assert apply(fleet, data) == KEY
    assert fleet.nodes[KEY].state == "stale"


def test_only_the_death_of_the_present_connection_counts() -> None:
    fleet, edge = Fleet(), EdgeNode("hyle", "edge")
    born(fleet, edge, bd_seq=4)
    apply(fleet, edge.death(3))
    assert fleet.nodes[KEY].state == "online"
    apply(fleet, edge.death(4))
    assert fleet.nodes[KEY].state == "offline"
    assert not fleet.nodes[KEY].devices["lenet"].online


def test_the_death_of_a_model_leaves_the_node_and_the_other_models() -> None:
    fleet, edge = Fleet(), EdgeNode("hyle", "edge")
    born(fleet, edge)
    for message in edge.changes(node(model("other")), 2):
        assert apply(fleet, message) is None
    devices = fleet.nodes[KEY].devices
    assert (fleet.nodes[KEY].state, devices["lenet"].online, devices["other"].online) == ("online", False, True)


def test_historical_values_are_counted_and_do_not_replace_current_ones() -> None:
    fleet, edge = Fleet(), EdgeNode("hyle", "edge")
    kept = list(edge.offline(node(model(requests=1)), 1))
    born(fleet, edge)
    for message in edge.historical(kept, 2):
        assert apply(fleet, message) is None
    (seen,) = fleet.to_json()
    assert seen["historical"] == sum(len(sample.values) for sample in kept)
    assert seen["models"]["lenet"]["metrics"]["requests"] == 5


def test_after_a_loss_of_sight_all_that_lived_is_stale() -> None:
    fleet, edge = Fleet(), EdgeNode("hyle", "edge")
    born(fleet, edge)
    fleet.lose_sight()
    assert fleet.nodes[KEY].state == "stale"


KINDS = st.sampled_from(["NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH", "NCMD", "DCMD", "X"])


@given(st.lists(st.tuples(KINDS, st.sampled_from(["", "/lenet", "/x", "/a/b"]), st.binary(max_size=60)), max_size=12))
@example([("NBIRTH", "", b"\x12\x06\x0a\x01a\x50\x80\x01"), ("NDATA", "", b"\x12\x02\x10\x05")])
def test_garbage_never_raises_and_never_makes_more_than_one_node(messages: list[tuple[str, str, bytes]]) -> None:
    fleet, edge = Fleet(), EdgeNode("hyle", "edge")
    born(fleet, edge)
    for kind, device, data in messages:
        fleet.apply(f"spBv1.0/hyle/{kind}/edge{device}", data, 1.0)
    assert list(fleet.nodes) == [KEY]
    assert fleet.to_json()


@given(st.data())
def test_a_damaged_message_never_raises(data: st.DataObject) -> None:
    edge = EdgeNode("hyle", "edge")
    fleet = Fleet()
    for message in edge.births(node(model()), 0, 1):
        damaged = bytearray(message.payload)
        for _ in range(data.draw(st.integers(0, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        fleet.apply(message.topic, bytes(damaged), 1.0)
    assert fleet.to_json() is not None


def test_commands_and_other_topics_are_passed_over_and_unreadable_payloads_counted() -> None:
    fleet = Fleet()
    for topic in ("spBv1.0/hyle/NCMD/edge", "spBv1.0/STATE/host", "other/hyle/NDATA/edge", "spBv1.0/hyle/NDATA//"):
        assert fleet.apply(topic, b"", 1.0) is None
    assert fleet.apply("spBv1.0/hyle/NDATA/edge", b"\xff", 1.0) is None
    assert (len(fleet.nodes), fleet.refused) == (0, 1)


def test_the_request_for_births_is_the_boolean_that_the_standard_says() -> None:
    topic, payload = rebirth_request("hyle", "edge", 5)
    (metric,) = decode(payload).metrics
    assert topic == "spBv1.0/hyle/NCMD/edge"
    assert (metric.name, metric.datatype, metric.value, metric.timestamp) == ("Node Control/Rebirth", 11, True, 5)


@given(st.text(max_size=200))
def test_any_name_becomes_an_id_that_a_topic_can_hold(name: str) -> None:
    made = safe_id(name)
    assert is_valid_id(made)
    assert Topic.parse(str(Topic("g", "DDATA", "n", made))) == Topic("g", "DDATA", "n", made)
    assert made == name or not is_valid_id(name)


def test_names_that_differ_only_in_reserved_characters_stay_apart() -> None:
    assert len({safe_id(name) for name in ("a/b", "a+b", "a#b", "a_b", "")}) == 5


@given(st.sampled_from([1, 2, 3, 4]), st.data())
def test_signed_integers_come_back_with_their_sign(datatype: int, data: st.DataObject) -> None:
    bits = 4 << datatype
    value = data.draw(st.integers(-(1 << bits - 1), (1 << bits - 1) - 1))
    metric = parse_payload(b"").metrics.add()
    write_value(metric, datatype, value)
    assert read_value(metric, datatype) == value


SCALARS = [(5, 255), (7, 2**32 - 1), (8, 2**64 - 1), (9, 0.5), (10, 0.1), (11, True), (12, "é"), (13, 9), (10, None)]


@pytest.mark.parametrize(("datatype", "value"), SCALARS)
def test_scalars_come_back(datatype: int, value: object) -> None:
    metric = parse_payload(b"").metrics.add()
    write_value(metric, datatype, value)
    assert read_value(metric, datatype) == value
    assert metric.is_null is (value is None)


def test_what_is_no_scalar_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        write_value(parse_payload(b"").metrics.add(), 16, 1)
