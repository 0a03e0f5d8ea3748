"""Drain and batch: what gathers while the device is busy is answered by one execution, each with its own answer."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from agent_fakes import COLS, ROWS, Operator, Running, config_for, make_bundle, running, weights
from hyle_agent import choice
from hyle_agent.aio_engine import AioEngine
from hyle_agent.batching import Waiting
from hyle_agent.cq_engine import CqEngine
from hyle_protos.inference import inference_pb2 as pb
from hyle_protos.inference import inference_pb2_grpc
from test_agent_lifecycle import until


def ask(x: np.ndarray, name: str = "") -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=x.shape)
    raw = [x.astype("<f4").tobytes()]
    return pb.ModelInferRequest(model_name="small", id=name, inputs=[tensor], raw_input_contents=raw)


def gathered(agent: Running, stub: object, requests: list[pb.ModelInferRequest]) -> list[pb.ModelInferResponse]:
    """Answers of requests that all came while the device was busy with another."""
    agent.executor.gate.clear()
    first = stub.ModelInfer.future(ask(np.ones((1, ROWS))), timeout=20)
    until(lambda: agent.executor.calls[-1].startswith("run"))
    futures = [stub.ModelInfer.future(request, timeout=20) for request in requests]
    until(lambda: agent.agent.snapshot().models[0].queue_depth == len(requests) + 1)
    agent.executor.gate.set()
    first.result()
    return [future.result() for future in futures]


def test_requests_that_gather_are_one_execution_and_each_gets_its_own_answer(tmp_path: Path, store: Path) -> None:
    random = np.random.default_rng(0)
    sent = [random.normal(size=(1 + i % 3, ROWS)).astype(np.float32) for i in range(12)]
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = gathered(agent, stub, [ask(x, f"id {i}") for i, x in enumerate(sent)])
        assert agent.executor.calls.count("run 1") == 2
    for i, (x, answer) in enumerate(zip(sent, answers, strict=True)):
        y = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(-1, COLS)
        # A matrix product of another batch size may round differently, by a few units in the last place.
        np.testing.assert_allclose(y, x @ weights(1), rtol=1e-5, atol=1e-6)
        assert (answer.id, list(answer.outputs[0].shape)) == (f"id {i}", [len(x), COLS])
        assert answer.parameters["calibration"].string_param.startswith(answer.parameters["digest"].string_param[:12])
        assert answer.parameters["calibration_age_s"].int64_param >= 0


def test_an_answered_request_is_freed_at_once_and_leaves_the_collector_nothing(tmp_path: Path, store: Path) -> None:
    def kept() -> int:
        return sum(isinstance(one, Waiting) for one in gc.get_objects())

    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                stub.ModelInfer(ask(np.ones((1, ROWS))), timeout=20)
            until(lambda: kept() <= 1)  # the frame of the last may still stand on the thread that served it
        finally:
            gc.enable()


def test_a_device_that_takes_one_at_a_time_gets_them_in_order(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, max_batch=1)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        gathered(agent, stub, [ask(np.full((1, ROWS), i)) for i in range(5)])
        assert agent.executor.calls.count("run 1") == 6


@pytest.mark.parametrize(("value", "reason"), [(1e31, "DAC"), (np.nan, "expected finite values"), (-np.inf, "finite")])
def test_one_bad_request_of_a_batch_fails_alone(tmp_path: Path, store: Path, value: float, reason: str) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        agent.executor.gate.clear()
        first = stub.ModelInfer.future(ask(np.ones((1, ROWS))), timeout=20)
        until(lambda: agent.executor.calls[-1] == "run 1")
        good = [stub.ModelInfer.future(ask(np.ones((1, ROWS))), timeout=20) for _ in range(3)]
        bad = stub.ModelInfer.future(ask(np.full((1, ROWS), value)), timeout=20)
        until(lambda: agent.agent.snapshot().models[0].queue_depth == 5)
        agent.executor.gate.set()
        assert all(call.result().model_version == "1" for call in (first, *good))
        with pytest.raises(grpc.RpcError, match=reason) as caught:
            bad.result()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert agent.agent.snapshot().models[0].queue_depth == 0


def test_requests_that_wait_through_a_switch_are_answered_by_the_new_slot(tmp_path: Path, store: Path) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        agent.executor.gate.clear()
        futures = [stub.ModelInfer.future(ask(np.ones((1, ROWS))), timeout=20) for _ in range(4)]
        until(lambda: agent.agent.snapshot().models[0].queue_depth == 4)
        loading = threading.Thread(
            target=lambda: stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="small"))
        )
        loading.start()
        until(lambda: not agent.agent.snapshot().models[0].ready)
        agent.executor.gate.set()
        loading.join(20)
        codes = {future.code() for future in futures}
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert futures[0].code() is grpc.StatusCode.OK


def test_a_socket_in_the_file_system_serves_too(tmp_path: Path, store: Path) -> None:
    with running(config_for(store, listen=f"unix:{tmp_path}/agent.sock")) as agent:
        assert agent.address == f"unix:{tmp_path}/agent.sock"
        with grpc.insecure_channel(agent.address) as channel:
            Operator(channel).deploy(make_bundle(tmp_path, 1))


def test_the_fast_engine_is_chosen_if_it_answers_on_a_tested_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice.find_engine("auto") is CqEngine
    assert choice.find_engine("aio") is AioEngine
    monkeypatch.setattr(choice, "version", lambda name: "9.9.0")
    assert choice.find_engine("auto") is AioEngine


def test_an_engine_that_fails_its_self_test_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CqEngine, "open", lambda self, loop: 1 / 0)
    assert choice.find_engine("auto") is AioEngine
