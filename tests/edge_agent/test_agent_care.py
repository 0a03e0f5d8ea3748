"""Looking after what serves, at bad moments: calibrating while serving, installing, stopping; a driver that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from agent_fakes import FakeExecutor, FakeProgram, Operator, config_for, debris, make_bundle, running
from hyle_protos.control import control_pb2 as pb
from hyle_protos.inference import inference_pb2_grpc
from test_agent_control import refused, request, version_that_answers
from test_agent_trials import until


class Patient(FakeProgram):
    """A program whose calibration takes many steps on the device."""

    steps = 40
    step_s = 0.02

    def recalibration(self) -> Iterator[None]:
        for _ in range(self.steps):
            time.sleep(self.step_s)
            self.calls.append("step")
            yield
        yield from super().recalibration()


class PatientExecutor(FakeExecutor):
    def __call__(self, directory: Path, manifest: Any, driver: Any, *, threads: int) -> Patient:
        self.programs.append(Patient(directory, manifest, driver, self.gate, self.calls))
        return self.programs[-1]


def test_requests_are_answered_between_the_steps_of_a_calibration(tmp_path: Path, store: Path) -> None:
    executor = PatientExecutor()
    with running(config_for(store), executor) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        executor.programs[-1].sick = 1
        with ThreadPoolExecutor(1) as pool:
            tested = pool.submit(operator.stub.SelfTest, pb.SelfTestRequest(model="small"))
            until(lambda: "step" in executor.calls)
            while not tested.done():
                assert version_that_answers(channel) == 1
            assert tested.result().report.passed
        during = executor.calls[executor.calls.index("step") : executor.calls.index("recalibrate 1")]
        assert during.count("step") == Patient.steps
        assert during.count("run 1") >= 5
        assert operator.model().recalibrations == 1


def test_an_install_waits_for_a_calibration_and_then_succeeds(tmp_path: Path, store: Path) -> None:
    executor = PatientExecutor()
    with running(config_for(store), executor) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        executor.programs[-1].sick = 1
        with ThreadPoolExecutor(1) as pool:
            tested = pool.submit(operator.stub.SelfTest, pb.SelfTestRequest(model="small"))
            until(lambda: "step" in executor.calls)
            assert operator.deploy(make_bundle(tmp_path, 2)).self_test.passed
            assert tested.result().report.passed
        assert version_that_answers(channel) == 2
    assert debris(store) == []


def test_a_stop_during_a_calibration_leaves_it_and_drains(tmp_path: Path, store: Path) -> None:
    executor = PatientExecutor()
    Patient.steps, before = 100_000, Patient.steps
    try:
        with running(config_for(store), executor) as agent, grpc.insecure_channel(agent.address) as channel:
            operator = Operator(channel)
            operator.deploy(make_bundle(tmp_path, 1))
            executor.programs[-1].sick = 1
            asked = operator.stub.SelfTest.future(pb.SelfTestRequest(model="small"))
            until(lambda: "step" in executor.calls)
            agent.stop()
            with pytest.raises(grpc.RpcError):
                asked.result(30)
    finally:
        Patient.steps = before
    assert "recalibrate 1" not in executor.calls
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 1


def test_a_driver_that_hangs_holds_nobody_up_and_answers_nobody_twice(tmp_path: Path, store: Path) -> None:
    config = config_for(store, device_timeout_s=0.3)
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        agent.executor.gate.clear()
        hanging = stub.ModelInfer.future(request(), timeout=30)
        until(lambda: agent.executor.calls[-1] == "run 1")
        error = refused(operator.stub.SelfTest, pb.SelfTestRequest(model="small"))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "has not answered" in error.details()
        with pytest.raises(grpc.RpcError) as caught:
            hanging.result(30)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert operator.model().fault == "timeout"
        agent.executor.gate.set()
        until(lambda: operator.stub.SelfTest(pb.SelfTestRequest(model="small")).report.passed)
        assert version_that_answers(channel) == 1
        statistics = agent.agent.snapshot().models[0]
        assert (statistics.requests, statistics.errors, statistics.queue_depth) == (2, 1, 0)
        assert operator.model().fault == ""


def test_a_model_that_could_not_start_is_tried_again_on_schedule(tmp_path: Path, store: Path) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
    executor = FakeExecutor()
    executor.fail = RuntimeError("private")
    config = config_for(store, self_test_interval_s=0.1)
    with running(config, executor) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        assert not operator.model().ready
        time.sleep(0.5)  # the rounds meet the fault, which is no error of ours, and go on
        executor.fail = None
        until(lambda: operator.model().ready)
        assert version_that_answers(channel) == 1


def test_a_model_that_the_operator_unloaded_stays_unloaded(tmp_path: Path, store: Path) -> None:
    from hyle_protos.inference import inference_pb2 as oip

    config = config_for(store, self_test_interval_s=0.05)
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(make_bundle(tmp_path, 1))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="small"))
        before = threading.Event()
        before.wait(0.4)  # several rounds go by
        assert not operator.model().ready
        stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="small"))
        assert version_that_answers(channel) == 1
