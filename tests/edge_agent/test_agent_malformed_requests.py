"""Each malformed request gets Triton's status and a sentence that names field, expected and got."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from agent_fakes import ROWS, Operator, Running, make_bundle
from hyle_agent.cli import OneLine
from hyle_agent.models import Model
from hyle_agent.slots import ModelState
from hyle_protos.control import control_pb2, control_pb2_grpc
from hyle_protos.inference import inference_pb2 as pb
from hyle_protos.inference import inference_pb2_grpc
from hyle_protos.maintenance import maintenance_pb2, maintenance_pb2_grpc

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
Request = pb.ModelInferRequest


def valid() -> Request:
    tensor = Request.InferInputTensor(name="x", datatype="FP32", shape=[2, ROWS])
    return Request(model_name="small", inputs=[tensor], raw_input_contents=[np.ones((2, ROWS), "<f4").tobytes()])


def typed(values: list[float]) -> Request:
    request = valid()
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(values)
    return request


def changed(change: Callable[[Request], object]) -> Request:
    request = valid()
    change(request)
    return request


def shaped(*shape: int) -> Request:
    def change(request: Request) -> None:
        request.inputs[0].ClearField("shape")
        request.inputs[0].shape.extend(shape)

    return changed(change)


def raw(data: bytes) -> Request:
    return changed(lambda r: r.raw_input_contents.__setitem__(0, data))


def with_float(value: float) -> Request:
    x = np.ones((2, ROWS), "<f4")
    x[1, 2] = value
    return raw(x.tobytes())


def field(**values: object) -> Request:
    return changed(lambda r: [setattr(r.inputs[0], name, value) for name, value in values.items()])


def both() -> Request:
    return changed(lambda r: r.inputs[0].contents.fp32_contents.extend([1.0] * 2 * ROWS))


def wrong_field() -> Request:
    request = typed([])
    request.inputs[0].contents.int_contents.extend([1] * 2 * ROWS)
    return request


def output(*names: str, **parameters: str) -> Request:
    def change(request: Request) -> None:
        for name in names:
            added = request.outputs.add(name=name)
            for key, value in parameters.items():
                added.parameters[key].string_param = value

    return changed(change)


def parameter(where: str) -> Request:
    def change(request: Request) -> None:
        target = request if where == "request" else request.inputs[0]
        target.parameters["shared_memory_region"].string_param = "r"

    return changed(change)


TABLE = {
    "unknown model": (changed(lambda r: setattr(r, "model_name", "nobody")), NOT_FOUND, ["'nobody'", "small"]),
    "no model": (changed(lambda r: setattr(r, "model_name", "")), NOT_FOUND, ["''"]),
    "unknown version": (changed(lambda r: setattr(r, "model_version", "9")), NOT_FOUND, ["'9'", "'1'"]),
    "raw too short": (raw(b"\0" * 31), INVALID, ["'x'", "raw_input_contents", "32 bytes", "31 bytes"]),
    "raw too long": (raw(b"\0" * 36), INVALID, ["'x'", "raw_input_contents", "32 bytes", "36 bytes"]),
    "raw empty": (raw(b""), INVALID, ["'x'", "32 bytes", "0 bytes"]),
    "no data": (changed(lambda r: r.ClearField("raw_input_contents")), INVALID, ["'x'", "contents", "neither"]),
    "empty contents": (typed([]), INVALID, ["'x'", "fp32_contents", "8 elements"]),
    "typed too short": (typed([1.0] * 7), INVALID, ["fp32_contents", "8 elements", "got 7"]),
    "typed too long": (typed([1.0] * 9), INVALID, ["fp32_contents", "8 elements", "got 9"]),
    "typed in the wrong field": (wrong_field(), INVALID, ["fp32_contents", "int_contents"]),
    "wrong shape": (shaped(2, ROWS + 1), INVALID, ["'x'", "shape", "[-1, 4]", "[2, 5]"]),
    "wrong rank": (shaped(2 * ROWS), INVALID, ["shape", "[-1, 4]", "[8]"]),
    "no shape": (shaped(), INVALID, ["shape", "[-1, 4]", "[]"]),
    "negative shape": (shaped(-2, ROWS), INVALID, ["shape", "[-2, 4]"]),
    "minus one as a shape": (shaped(-1, ROWS), INVALID, ["shape", "[-1, 4]"]),
    "huge shape": (shaped(2**62, ROWS), INVALID, ["raw_input_contents", "32 bytes"]),
    "empty batch": (shaped(0, ROWS), INVALID, ["shape", "at least one", "[0, 4]"]),
    "raw and typed together": (both(), INVALID, ["'x'", "contents", "both"]),
    "more raw entries than inputs": (
        changed(lambda r: r.raw_input_contents.append(b"")),
        INVALID,
        ["raw_input_contents", "expected 1", "got 2"],
    ),
    "wrong input name": (field(name="z"), INVALID, ["'z'", "name", "x"]),
    "no input": (changed(lambda r: r.ClearField("inputs")), INVALID, ["'x'", "none"]),
    "an input twice": (changed(lambda r: r.inputs.append(r.inputs[0])), INVALID, ["'x'", "once"]),
    "wrong dtype": (field(datatype="INT32"), INVALID, ["'x'", "datatype", "FP32", "INT32"]),
    "bogus dtype": (field(datatype="FLOAT"), INVALID, ["'x'", "datatype", "FP32", "FLOAT"]),
    "no dtype": (field(datatype=""), INVALID, ["'x'", "datatype", "FP32"]),
    "NaN": (with_float(float("nan")), INVALID, ["'x'", "finite", "NaN"]),
    "infinity": (with_float(float("-inf")), INVALID, ["'x'", "finite"]),
    "typed NaN": (typed([float("nan")] * 8), INVALID, ["'x'", "finite"]),
    "what the DAC cannot represent": (with_float(1e31), INVALID, ["'x'", "DAC"]),
    "unknown output": (output("z"), INVALID, ["'z'", "y"]),
    "an output twice": (output("y", "y"), INVALID, ["'y'", "once"]),
    "classification": (output("y", classification="3"), INVALID, ["classification", "'y'"]),
    "shared memory input": (parameter("input"), INVALID, ["shared_memory_region", "'x'"]),
    "shared memory request": (parameter("request"), INVALID, ["shared_memory_region"]),
}


@pytest.fixture
def stub(agent: Running, channel: grpc.Channel, operator: Operator, tmp_path: Path) -> object:
    operator.deploy(make_bundle(tmp_path, 1))
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("case", TABLE)
def test_a_malformed_request_is_refused_like_triton_does(stub: object, case: str) -> None:
    request, code, words = TABLE[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=10)
    assert caught.value.code() is code
    for word in words:
        assert word in caught.value.details()


def test_typed_contents_are_answered_like_raw_ones(stub: object) -> None:
    assert stub.ModelInfer(typed([1.0] * 8)).raw_output_contents == stub.ModelInfer(valid()).raw_output_contents


def test_a_refusal_carries_a_remedy(stub: object) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(TABLE["wrong dtype"][0])
    assert dict(caught.value.trailing_metadata())["hyle-remedy-bin"] == b"See ModelMetadata for what the model takes."


def test_bytes_that_are_no_protobuf_never_reach_the_agent(stub: object, channel: grpc.Channel) -> None:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff\xff", timeout=10)
    assert caught.value.code() is not grpc.StatusCode.OK


def test_an_unknown_model_has_no_metadata_readiness_or_statistics(stub: object) -> None:
    for call, request in (
        (stub.ModelMetadata, pb.ModelMetadataRequest(name="nobody")),
        (stub.ModelReady, pb.ModelReadyRequest(name="nobody")),
        (stub.ModelConfig, pb.ModelConfigRequest(name="small", version="2")),
        (stub.ModelStatistics, pb.ModelStatisticsRequest(name="nobody")),
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="nobody")),
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="nobody")),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is NOT_FOUND


def test_a_version_without_a_name_has_no_statistics(stub: object) -> None:
    with pytest.raises(grpc.RpcError, match="expected a name"):
        stub.ModelStatistics(pb.ModelStatisticsRequest(version="1"))


def test_parameters_of_a_load_are_refused(stub: object) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="small")
    request.parameters["config"].string_param = "{}"
    with pytest.raises(grpc.RpcError, match="config") as caught:
        stub.RepositoryModelLoad(request)
    assert caught.value.code() is INVALID


def test_the_text_of_an_unexpected_exception_stays_in_the_process(
    stub: object, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(raw(np.full((2, ROWS), 13.0, "<f4").tobytes()))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    incident = caught.value.details().split()[-1].rstrip(".")
    assert "secret" not in caught.value.details()
    assert incident in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text + "".join(capfd.readouterr())


NAMES = [
    "",
    "..",
    ".",
    "../../etc/passwd",
    "/",
    "small/1",
    "small\n2026-01-01 00:00:00 ERROR hyle_agent: forged",
    "small\r",
    "\0",
    "\x1b[2J",
    "\u2028\u202e",
    "x" * 100_000,
    "\N{GRINNING FACE}" * 1000,
]


def calls(channel: grpc.Channel, name: str) -> dict[str, Callable[[], object]]:
    stub, operator = inference_pb2_grpc.GRPCInferenceServiceStub(channel), control_pb2_grpc.ControlStub(channel)
    return {
        "infer": lambda: stub.ModelInfer(changed(lambda r: setattr(r, "model_name", name)), timeout=10),
        "ready": lambda: stub.ModelReady(pb.ModelReadyRequest(name=name), timeout=10),
        "metadata": lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=name), timeout=10),
        "config": lambda: stub.ModelConfig(pb.ModelConfigRequest(name=name), timeout=10),
        "load": lambda: stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=10),
        "unload": lambda: stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=10),
        "activate": lambda: operator.Activate(control_pb2.ActivateRequest(model=name, digest=name), timeout=10),
        "rollback": lambda: operator.Rollback(control_pb2.RollbackRequest(model=name), timeout=10),
        "self-test": lambda: operator.SelfTest(control_pb2.SelfTestRequest(model=name), timeout=10),
        "remove": lambda: operator.Remove(control_pb2.RemoveRequest(model=name), timeout=10),
    }


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_that_no_model_can_have_is_not_found_and_writes_no_line_of_its_own(
    stub: object, channel: grpc.Channel, agent: Running, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    for what, call in calls(channel, name).items():
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is NOT_FOUND, what
        assert caught.value.details().isprintable(), what
        assert caught.value.details().endswith("is not installed here; installed: small."), what
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert [model.name for model in agent.agent._models.all()] == ["small"]


def test_an_unknown_name_among_many_is_told_within_what_a_client_takes(stub: object, agent: Running) -> None:
    models = agent.agent._models
    for number in range(200):
        models.put(Model(f"{number:03d}" + "m" * 125, ModelState()))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(TABLE["unknown model"][0], timeout=10)
    assert caught.value.code() is NOT_FOUND
    assert "'nobody'" in caught.value.details()


def test_a_reason_that_is_a_sentence_ends_once(stub: object, agent: Running) -> None:
    model = agent.agent._models.get("small")
    model.serving, model.reason = None, "could not be loaded: The device is gone."
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(valid(), timeout=10)
    assert caught.value.details() == "Model 'small' cannot answer now: could not be loaded: The device is gone."


def test_a_holder_of_the_device_writes_no_line_of_its_own(
    channel: grpc.Channel, agent: Running, caplog: pytest.LogCaptureFixture
) -> None:
    lender = maintenance_pb2_grpc.MaintenanceStub(channel)
    with caplog.at_level(logging.INFO):
        lender.Open(maintenance_pb2.OpenRequest(holder="me\nERROR forged\x1b[2J", purpose="\r\n"), timeout=10)
    assert any("to me ERROR forged [2J" in record.getMessage() for record in caplog.records)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    said = control_pb2_grpc.ControlStub(channel).Status(control_pb2.StatusRequest(), timeout=10).maintenance
    assert said.startswith("the device is lent to me ERROR forged [2J until")


def test_a_message_stays_on_its_line_of_the_log() -> None:
    record = logging.LogRecord("n", logging.INFO, "", 0, "lent to %s", ("me\nERROR forged\x1b[2J",), None)
    assert OneLine("%(message)s").format(record) == "lent to me\\nERROR forged\\x1b[2J"
