"""A newly activated slot is watched; what fails its trial gives way to what served before, by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from agent_fakes import FakeExecutor, Operator, config_for, debris, make_bundle, running
from hyle_agent.errors import StoreError
from hyle_agent.floors import FLOORS_NAME, Floors
from hyle_agent.reserve import Reserve
from hyle_agent.slots import ModelState, SlotRecord, Trial, decode_state, encode_state
from hyle_bundle import open_bundle
from hyle_protos.control import control_pb2 as pb
from hyle_protos.inference import inference_pb2_grpc
from kill_worker import controller, deploy
from test_agent_control import PRECONDITION, refused, request, version_that_answers


def until(condition: Callable[[], object], patience_s: float = 20.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "the awaited state never came"
        time.sleep(0.01)


def test_a_slot_that_stays_well_is_marked_good_after_the_watch(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, watch_s=0.4)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        status = operator.model()
        assert status.on_trial
        assert 0 < status.trial_left_s <= 0.4
        until(lambda: not operator.model().on_trial)
        assert json.loads((store / FLOORS_NAME).read_text())["floors"] == {"small": 1}
        kinds = [event.kind for event in operator.stub.Status(pb.StatusRequest()).events]
    assert kinds == ["trial", "proven"]


def test_a_self_test_that_fails_during_the_watch_goes_back_and_says_so(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, watch_s=2.0)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        until(lambda: not operator.model().on_trial)
        operator.deploy(make_bundle(tmp_path, 2))
        agent.executor.programs[-1].sick = 9
        until(lambda: operator.model().active == "a")
        assert version_that_answers(channel) == 1
        status = operator.model()
        assert status.ready
        assert "went back from version 2 by itself: the self-test's residual is 8" in status.reason
        until(lambda: operator.model().rollbacks)  # counted by its event, which is told once it is done
        assert operator.model().rollbacks == 1
        assert agent.agent.snapshot().models[0].rollbacks == 1
        error = refused(operator.stub.Rollback, pb.RollbackRequest(model="small"))
        assert "no previous slot" in error.details()
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 1
        assert "went back from version 2" in Operator(channel).model().reason
    assert debris(store) == []


def test_a_slot_that_breaks_most_requests_during_the_watch_goes_back(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, watch_s=1.0)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        until(lambda: not operator.model().on_trial)
        operator.deploy(make_bundle(tmp_path, 2))
        broken = request()
        broken.raw_input_contents[0] = b"\x00\x00PA" * 4  # four times 13.0, which breaks the program
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(3):
            assert refused(stub.ModelInfer, broken).code() is grpc.StatusCode.INTERNAL
        until(lambda: operator.model().active == "a")
        assert "it failed at 3 of 3 requests" in operator.model().reason


def test_bad_requests_during_the_watch_are_no_fault_of_the_slot(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, watch_s=0.5)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        until(lambda: not operator.model().on_trial)
        operator.deploy(make_bundle(tmp_path, 2))
        wrong = request()
        wrong.raw_input_contents[0] = b"\xff\xff\x7f\x7f" * 4  # larger than the program's DAC can say
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(5):
            assert refused(stub.ModelInfer, wrong).code() is grpc.StatusCode.INVALID_ARGUMENT
        until(lambda: not operator.model().on_trial)
        assert operator.model().active == "b"


def test_no_install_takes_the_way_back_from_a_slot_on_trial(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, watch_s=0.6)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        operator.deploy(make_bundle(tmp_path, 2))
        error = refused(operator.install, make_bundle(tmp_path, 3))
        assert error.code() is PRECONDITION
        assert "is its way back" in error.details()
        assert list((store / "staging").iterdir()) == []
        with open_bundle(make_bundle(tmp_path, 3)) as bundle:
            assert "is its way back" in refused(operator.plan, bundle).details()
        with open_bundle(make_bundle(tmp_path, 2)) as bundle:
            assert operator.plan(bundle) == []
        until(lambda: not operator.model().on_trial)
        operator.deploy(make_bundle(tmp_path, 3))
        assert version_that_answers(channel) == 3


def boots(store: Path, folder: Path, times: int, *, clean: bool = False) -> tuple[str, str]:
    """Start controllers that die or stop; the version that the last one serves, and its reason."""
    for _ in range(times):
        control, models = controller(store)
        control._trials._policy = control._policy = control._policy.__class__(watch_s=60.0, watch_deaths=3)
        control.boot()
        if clean:
            control.stop()
        model = models.get("small")
        control._store.close()
    return model.state.slots[model.state.active].version, model.reason


def prepared(store: Path, folder: Path) -> None:
    control, _ = controller(store)
    deploy(control, make_bundle(folder, 1))
    control._trials._policy = control._policy.__class__(watch_s=60.0, watch_deaths=3)
    deploy(control, make_bundle(folder, 2))
    control._store.close()


def test_a_process_that_dies_three_times_on_trial_comes_back_with_the_old_slot(tmp_path: Path, store: Path) -> None:
    prepared(store, tmp_path)
    assert boots(store, tmp_path, 2) == ("2", "")
    version, reason = boots(store, tmp_path, 1)
    assert version == "1"
    assert reason == "went back from version 2 by itself: the process died 3 times while it was on trial"
    assert boots(store, tmp_path, 5)[0] == "1"


def test_a_stop_that_was_asked_for_is_no_death(tmp_path: Path, store: Path) -> None:
    prepared(store, tmp_path)
    assert boots(store, tmp_path, 1, clean=True)[0] == "2"  # the process that deployed died once
    assert boots(store, tmp_path, 6, clean=True) == ("2", "")
    state = decode_state((store / "models/small/state.json").read_bytes(), store)
    assert state.trial == Trial("b", deaths=1, running=False)


def test_a_state_of_the_format_before_trials_is_read_and_a_newer_one_refused(tmp_path: Path) -> None:
    old = b'{"active":"a","previous":"","slots":{"a":{"digest":"d","version":"1","counter":1,"signer":""}}}'
    state = decode_state(old, tmp_path)
    assert state == ModelState("a", "", {"a": SlotRecord("d", "1", 1, "")})
    newer = encode_state(state).replace(b"hyle-slots/2", b"hyle-slots/3")
    with pytest.raises(StoreError, match="this agent reads 'hyle-slots/2'"):
        decode_state(newer, tmp_path)


def test_a_trial_of_a_slot_that_does_not_serve_is_no_state(tmp_path: Path) -> None:
    state = ModelState("a", "", {"a": SlotRecord("d", "1", 1, "")}, Trial("b"))
    with pytest.raises(StoreError, match="does not serve"):
        decode_state(encode_state(state), tmp_path)


def test_a_floor_outlives_the_model_and_only_an_override_lowers_it(store: Path) -> None:
    store.mkdir()
    floors = Floors(store, Reserve(store))
    first = floors.challenge()
    floors.lift("m", 5)
    floors.lift("m", 3)
    assert (Floors(store, Reserve(store)).floor("m"), Floors(store, Reserve(store)).challenge()) == (5, first)
    floors.override("m", 2)
    again = Floors(store, Reserve(store))
    assert again.floor("m") == 2
    assert again.challenge() != first


def test_floors_that_no_agent_wrote_are_named(tmp_path: Path, store: Path) -> None:
    store.mkdir()
    (store / FLOORS_NAME).write_text('{"challenge": "short"}')
    with pytest.raises(StoreError, match=r"floors\.json is not what an agent wrote"):
        Floors(store, Reserve(store))


class Unbootable(FakeExecutor):
    """Programs of version 1 cannot be made any more."""

    def __call__(self, *args: object, **options: object) -> object:
        program = super().__call__(*args, **options)
        if program.manifest.version == "1":
            raise RuntimeError("private")
        return program


def test_a_trial_whose_way_back_is_broken_is_left_as_it_is(tmp_path: Path, store: Path) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
    config = config_for(store, watch_s=0.5)
    with running(config, Unbootable()) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        assert not operator.model().ready
        operator.deploy(make_bundle(tmp_path, 2))
        agent.executor.programs[-1].sick = 9
        until(lambda: not operator.model().ready)
        status = operator.model()
        assert (status.active, status.on_trial) == ("b", True)
        assert "residual is" in status.reason
