"""Start, overload, cancellation, drain and stop of a whole agent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from agent_fakes import FakeExecutor, Operator, config_for, make_bundle, running
from hyle_agent.agent import Agent
from hyle_agent.errors import ConfigError, StoreLockedError
from hyle_protos.control import control_pb2, failure_pb2
from hyle_protos.inference import inference_pb2_grpc
from test_agent_control import request


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the awaited state never came"
        time.sleep(0.005)


def test_overload_is_refused_with_a_time_to_try_again(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, queue=2)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        agent.executor.gate.clear()
        first = stub.ModelInfer.future(request(), timeout=20)
        until(lambda: agent.executor.calls[-1] == "run 1")
        waiting = [stub.ModelInfer.future(request(), timeout=20) for _ in range(2)]
        until(lambda: agent.agent.snapshot().models[0].queue_depth == 3)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(), timeout=20)
        agent.executor.gate.set()
        assert [call.result().model_version for call in (first, *waiting)] == ["1"] * 3
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(caught.value.trailing_metadata())
    status = failure_pb2.FailureStatus.FromString(trailers["grpc-status-details-bin"])
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert status.details[0].type_url == "type.googleapis.com/google.rpc.RetryInfo"
    assert failure_pb2.RetryInfo.FromString(status.details[0].value).retry_delay.nanos == 50_000_000


def test_cancelled_and_expired_requests_never_run(tmp_path: Path, store: Path) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        agent.executor.gate.clear()
        first = stub.ModelInfer.future(request(), timeout=20)
        until(lambda: agent.executor.calls[-1] == "run 1")
        gone = stub.ModelInfer.future(request(), timeout=20)
        until(lambda: agent.agent.snapshot().models[0].queue_depth == 2)
        gone.cancel()
        until(lambda: agent.agent.snapshot().models[0].queue_depth == 1)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(), timeout=0.1)
        time.sleep(0.2)  # the agent counts its deadline from the arrival, which a loaded machine delays
        agent.executor.gate.set()
        assert first.result().model_version == "1"
        assert stub.ModelInfer(request(), timeout=20).model_version == "1"
        assert agent.executor.calls.count("run 1") == 2
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stop_answers_what_is_in_progress_and_refuses_what_is_new(tmp_path: Path, store: Path) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        agent.executor.gate.clear()
        pending = [stub.ModelInfer.future(request(), timeout=20) for _ in range(3)]
        until(lambda: agent.agent.snapshot().models[0].queue_depth == 3)
        stopping = threading.Thread(target=agent.stop)
        stopping.start()
        until(lambda: agent.agent._models.stopping)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(), timeout=20)
        agent.executor.gate.set()
        assert [call.result().model_version for call in pending] == ["1"] * 3
        stopping.join(10)
        assert not stopping.is_alive()
        assert agent.executor.programs[-1].directory.is_dir()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stop_is_bounded_when_the_device_hangs(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, drain_s=0.1)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        agent.executor.gate.clear()
        pending = stub.ModelInfer.future(request(), timeout=20)
        until(lambda: agent.executor.calls[-1] == "run 1")
        agent.stop()
        with pytest.raises(grpc.RpcError):
            pending.result()
        agent.executor.gate.set()


def test_two_agents_on_one_store_are_refused(store: Path) -> None:
    with running(config_for(store)), pytest.raises(StoreLockedError, match="Another agent owns"):
        Agent(config_for(store), load=FakeExecutor(), connect=lambda options: None)
    with running(config_for(store)):
        pass


def test_a_device_that_does_not_open_leaves_the_store_to_others(store: Path) -> None:
    def connect(options: object) -> None:
        raise ConfigError("no device", remedy="attach one")

    with pytest.raises(ConfigError, match="no device"):
        Agent(config_for(store), load=FakeExecutor(), connect=connect)
    with running(config_for(store)):
        pass


def test_a_port_that_is_taken_is_refused(store: Path, tmp_path: Path) -> None:
    with (
        running(config_for(store)) as agent,
        pytest.raises(ConfigError, match="nothing can listen on"),
        running(config_for(tmp_path / "other", listen=agent.address)),
    ):
        pass


def test_a_socket_at_which_somebody_listens_is_left_to_them(store: Path, tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/agent.sock"
    with running(config_for(store, listen=listen, node="first")) as agent:
        with (
            pytest.raises(ConfigError, match="nothing can listen on unix:"),
            running(config_for(tmp_path / "other", listen=listen)),
        ):
            pass
        with grpc.insecure_channel(agent.address) as channel:
            assert Operator(channel).stub.Status(control_pb2.StatusRequest(), timeout=20).node == "first"


def test_a_socket_that_a_killed_agent_left_is_taken_over(store: Path, tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(f"{tmp_path}/agent.sock")
    left.listen()
    left.close()
    with (
        running(config_for(store, listen=f"unix:{tmp_path}/agent.sock")) as agent,
        grpc.insecure_channel(agent.address) as channel,
    ):
        assert Operator(channel).stub.Status(control_pb2.StatusRequest(), timeout=20).node == "n"


def test_what_serves_is_tested_regularly(tmp_path: Path, store: Path) -> None:
    config = config_for(store, self_test_interval_s=0.05)
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        agent.executor.programs[-1].sick = 10**6
        until(lambda: not agent.agent.snapshot().models[0].ready)
        assert not agent.agent._models.ready
        agent.executor.programs[-1].sick = 0
        until(lambda: agent.agent.snapshot().models[0].ready)


def test_installing_while_serving_never_gives_a_wrong_answer(tmp_path: Path, store: Path) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers: dict[str, set[bytes]] = {}
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                response = stub.ModelInfer(request(), timeout=20)
                answers.setdefault(response.model_version, set()).add(response.raw_output_contents[0])

        askers = [threading.Thread(target=ask) for _ in range(3)]
        [asker.start() for asker in askers]
        for version in range(2, 6):
            operator.deploy(make_bundle(tmp_path, version))
            until(lambda version=version: str(version) in answers)
        stop.set()
        [asker.join(10) for asker in askers]
    assert set(answers) == {"1", "2", "3", "4", "5"}
    assert all(len(seen) == 1 for seen in answers.values())
    assert len(set.union(*answers.values())) == 5


def test_readiness_is_false_until_the_start_is_over_and_after_a_stop(store: Path) -> None:
    with running(config_for(store)) as agent:
        models = agent.agent._models
        assert models.ready
        agent.stop()
        assert not models.ready
