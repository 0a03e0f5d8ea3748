"""Faults of a device in another process: each is named, something stands in, and the device comes back by itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from agent_fakes import Operator, RealExecutor, config_for, running
from hyle_agent.config import DriverConfig
from hyle_bundle import generate_key
from hyle_protos.control import control_pb2 as pb
from hyle_protos.inference import inference_pb2 as oip
from hyle_protos.inference import inference_pb2_grpc
from hyle_substrates.remote import connect as connect_remote
from test_agent_real_bundle import MODEL, compile_digits
from test_agent_trials import until

DRIVERS = Path(__file__).parents[1] / "drivers"
sys.path.insert(0, str(DRIVERS))
from rigs import Process  # noqa: E402


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    generate_key("me", folder)
    return compile_digits(folder, "1")


@dataclass
class Site:
    """An agent on a device in another process, with a model that serves."""

    rig: Process
    fault: Path
    operator: Operator
    stub: inference_pb2_grpc.GRPCInferenceServiceStub
    agent: object

    def model(self) -> pb.ModelStatus:
        return self.operator.model("digits")

    def kinds(self) -> list[str]:
        return [event.kind for event in self.operator.stub.Status(pb.StatusRequest()).events]

    def ask(self) -> oip.ModelInferResponse:
        with np.load(MODEL / "eval.npz") as data:
            name = next(key for key in data.files if key != "labels")
            x = np.ascontiguousarray(data[name][:1], dtype="<f4")
        tensor = oip.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=x.shape)
        request = oip.ModelInferRequest(model_name="digits", inputs=[tensor], raw_input_contents=[x.tobytes()])
        return self.stub.ModelInfer(request, timeout=30)

    def substrate(self) -> str:
        return self.ask().parameters["substrate"].string_param

    def ready(self) -> bool:
        return self.stub.ModelReady(oip.ModelReadyRequest(name="digits")).ready

    def until(self, condition: Callable[[pb.ModelStatus], object]) -> pb.ModelStatus:
        end = time.monotonic() + 60.0
        while not condition(status := self.model()):
            assert time.monotonic() < end, f"the awaited state never came: {status}"
            time.sleep(0.05)
        return status


@contextmanager
def served(bundle: Path, folder: Path, **changes: object) -> Iterator[Site]:
    fault = folder / "fault"
    fault.write_text("")
    rig = Process([sys.executable, str(DRIVERS / "faulty_device.py"), "0", "pcm-hermes", "7", str(fault)], 2)
    options = {"address": f"127.0.0.1:{rig.port}", "timeout_s": "1.5"}
    config = config_for(folder / "store", self_test_interval_s=0.5, **changes)
    config = type(config)(
        **{**{f: getattr(config, f) for f in config.__struct_fields__}, "driver": DriverConfig("remote", options)}
    )
    try:
        with (
            running(config, RealExecutor(), connect_remote) as agent,
            grpc.insecure_channel(agent.address) as channel,
        ):
            operator = Operator(channel)
            operator.deploy(bundle)
            yield Site(rig, fault, operator, inference_pb2_grpc.GRPCInferenceServiceStub(channel), agent.agent)
    finally:
        rig.unplug()


FAULTS = {"stuck": "stuck", "saturated": "saturated", "nan": "not a number", "hang": "timeout"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_device_is_named_its_twin_answers_and_it_comes_back(bundle: Path, tmp_path: Path, fault: str) -> None:
    with served(bundle, tmp_path, fallback="twin") as site:
        assert site.substrate() == "hardware"
        site.fault.write_text(fault)
        status = site.until(lambda model: model.fault and model.substrate == "twin")
        assert status.fault == FAULTS[fault]
        assert status.ready
        assert site.ready()
        assert site.substrate() == "twin"
        assert {"device-fault", "fallback"} <= set(site.kinds())
        assert site.agent.snapshot().models[0].fault == FAULTS[fault]
        site.fault.write_text("")
        back = site.until(lambda model: model.substrate == "hardware" and not model.fault)
        assert back.ready
        assert back.fallbacks >= 1
        until(lambda: "recovery" in site.kinds())  # said once the twin's files are closed, which is after the switch
        assert site.substrate() == "hardware"


def test_a_model_that_a_faulty_device_cannot_load_again_is_answered_for(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, fallback="twin") as site:
        site.fault.write_text("stuck")
        site.until(lambda model: model.fault and model.substrate == "twin")
        with pytest.raises(grpc.RpcError, match="self-test"):
            site.stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="digits"))
        assert site.substrate() == "twin"
        site.fault.write_text("")
        site.until(lambda model: model.substrate == "hardware" and not model.fault)


def test_one_stuck_column_is_named_while_the_residual_decides_who_serves(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, fallback="digital") as site:
        site.fault.write_text("column")
        status = site.until(lambda model: model.fault)
        assert status.fault == "stuck"
        assert status.substrate in {"hardware", "digital"}
        site.fault.write_text("")
        site.until(lambda model: model.substrate == "hardware" and not model.fault)


def test_an_unplugged_device_is_named_and_its_model_computed_exactly_until_it_is_back(
    bundle: Path, tmp_path: Path
) -> None:
    with served(bundle, tmp_path, fallback="digital") as site:
        site.rig.unplug()
        status = site.until(lambda model: model.substrate == "digital")
        assert status.fault == "unplugged"
        until(lambda: not site.operator.stub.Status(pb.StatusRequest()).device.attached)
        assert site.operator.stub.Status(pb.StatusRequest()).device.fault == "unplugged"
        first, second = site.ask(), site.ask()
        assert first.raw_output_contents == second.raw_output_contents  # nothing random is left
        site.rig.replug()
        site.until(lambda model: model.substrate == "hardware" and not model.fault)
        until(lambda: site.operator.stub.Status(pb.StatusRequest()).device.attached)


def test_another_device_after_a_replug_is_named_and_never_asked(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path) as site:
        site.rig.unplug()
        site.until(lambda model: not model.ready)
        site.rig._command[4] = "8"
        site.rig.replug()
        status = site.until(lambda model: model.fault == "wrong device")
        assert not status.ready
        assert not site.ready()
        with pytest.raises(grpc.RpcError) as caught:
            site.ask()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        site.rig.unplug()
        site.rig._command[4] = "7"
        site.rig.replug()
        site.until(lambda model: model.ready and not model.fault)
        assert site.substrate() == "hardware"


def test_a_frozen_device_is_a_timeout_and_without_a_fallback_the_model_is_not_ready(
    bundle: Path, tmp_path: Path
) -> None:
    with served(bundle, tmp_path) as site:
        site.rig.freeze()
        status = site.until(lambda model: not model.ready and model.fault == "timeout")
        assert status.substrate == ""
        until(lambda: site.agent.snapshot().device_fault == "timeout")
        site.rig.thaw()
        site.until(lambda model: model.ready and model.substrate == "hardware")
