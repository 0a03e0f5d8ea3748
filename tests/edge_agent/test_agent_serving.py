"""An unmodified tritonclient against a running agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from agent_fakes import COLS, ROWS, Operator, Running, make_bundle, weights
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hyle_agent import answers, models
from hyle_protos.control import control_pb2 as pb
from hyle_protos.inference import inference_pb2_grpc
from test_agent_control import request
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(agent: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(agent.address) as made:
        yield made


@pytest.fixture
def deployed(operator: Operator, tmp_path: Path) -> pb.InstallResponse:
    return operator.deploy(make_bundle(tmp_path, 1))


def ask(client: triton.InferenceServerClient, x: np.ndarray, **options: object) -> triton.InferResult:
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x.astype(np.float32))
    return client.infer("small", [tensor], **options)


def test_an_empty_agent_is_live_and_ready_and_has_no_models(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "hyle"
    assert list(client.get_model_repository_index().models) == []


def test_an_unknown_method_is_named(agent: Running) -> None:
    with grpc.insecure_channel(agent.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/Divine")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "b'" not in caught.value.details()


def test_triton_gets_metadata_and_configuration(client: triton.InferenceServerClient, deployed: object) -> None:
    metadata = client.get_model_metadata("small")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("x", "FP32", [-1, ROWS])]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [
        ("y", "FP32", [-1, COLS]),
        ("largest", "INT64", [-1]),
    ]
    assert list(metadata.versions) == ["1"]
    assert metadata.platform == "hyle_digital"
    config = client.get_model_config("small").config
    assert config.input[0].data_type == 11
    assert list(config.output[0].dims) == [-1, COLS]


@pytest.mark.parametrize("batch", [1, 7])
def test_triton_gets_right_answers(client: triton.InferenceServerClient, deployed: object, batch: int) -> None:
    x = np.random.default_rng(0).normal(size=(batch, ROWS)).astype(np.float32)
    result = ask(client, x, request_id="q1")
    np.testing.assert_array_equal(result.as_numpy("y"), x @ weights(1))
    np.testing.assert_array_equal(result.as_numpy("largest"), (x @ weights(1)).argmax(1))
    assert result.get_response().id == "q1"


def test_an_answer_says_which_substrate_and_bundle_gave_it(
    client: triton.InferenceServerClient, deployed: pb.InstallResponse
) -> None:
    response = ask(client, np.ones((1, ROWS))).get_response()
    assert response.parameters["substrate"].string_param == "digital"
    assert response.parameters["digest"].string_param == deployed.digest


def test_only_the_wanted_outputs_come_in_the_wanted_order(
    client: triton.InferenceServerClient, deployed: object
) -> None:
    wanted = [triton.InferRequestedOutput("largest"), triton.InferRequestedOutput("y")]
    result = ask(client, np.ones((1, ROWS)), outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["largest", "y"]
    one = ask(client, np.ones((1, ROWS)), outputs=[triton.InferRequestedOutput("y")])
    assert [output.name for output in one.get_response().outputs] == ["y"]


def test_a_stream_answers_in_order_and_reports_errors_in_band(
    client: triton.InferenceServerClient, deployed: object
) -> None:
    got: list[tuple[object, object]] = []
    client.start_stream(lambda result, error: got.append((result, error)))
    for name in ("small", "nobody", "small"):
        tensor = triton.InferInput("x", [1, ROWS], "FP32")
        tensor.set_data_from_numpy(np.ones((1, ROWS), np.float32))
        client.async_stream_infer(name, [tensor], request_id=name)
    client.stop_stream()
    assert [error is None for _, error in got] == [True, False, True]
    assert "nobody" in str(got[1][1])


def test_statistics_count_answers_and_failures(
    client: triton.InferenceServerClient, deployed: object, agent: Running
) -> None:
    ask(client, np.ones((5, ROWS)))
    with pytest.raises(InferenceServerException):
        ask(client, np.ones((1, ROWS + 1)))
    stats = client.get_inference_statistics("small").model_stats[0]
    assert (stats.inference_count, stats.execution_count) == (5, 1)
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (1, 1)
    times = stats.inference_stats
    assert times.success.ns >= times.compute_infer.ns + times.queue.ns - 1 > times.queue.ns > 0
    assert [(batch.batch_size, batch.compute_infer.count) for batch in stats.batch_stats] == [(5, 1)]
    assert stats.batch_stats[0].compute_infer.ns == times.compute_infer.ns
    model = agent.agent.snapshot().models[0]
    assert (model.requests, model.errors, model.queue_depth) == (2, 1, 0)
    assert 0 < model.p50_s <= model.p99_s
    assert model.energy_j == pytest.approx(5e-6)
    assert client.get_inference_statistics().model_stats[0].name == "small"


def test_a_model_can_be_unloaded_and_loaded_again(client: triton.InferenceServerClient, deployed: object) -> None:
    client.unload_model("small")
    assert not client.is_model_ready("small")
    assert client.is_server_ready()
    row = client.get_model_repository_index().models[0]
    assert (row.state, row.reason) == ("UNAVAILABLE", "unloaded by the operator")
    with pytest.raises(InferenceServerException, match="unloaded by the operator") as caught:
        ask(client, np.ones((1, ROWS)))
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    client.load_model("small")
    assert client.is_model_ready("small", "1")
    assert client.get_model_repository_index().models[0].state == "READY"


def test_health_and_reflection_are_the_official_ones(
    channel: grpc.Channel, client: triton.InferenceServerClient, deployed: object
) -> None:
    health = health_pb2_grpc.HealthStub(channel)

    def status(name: str) -> int:
        return health.Check(health_pb2.HealthCheckRequest(service=name)).status

    assert status("") == status("small") == status("inference.GRPCInferenceService") == 1
    client.unload_model("small")
    assert (status(""), status("small")) == (1, 2)
    listed = health.List(health_pb2.HealthListRequest()).statuses
    assert {name: listed[name].status for name in ("", "small")} == {"": 1, "small": 2}
    database = ProtoReflectionDescriptorDatabase(channel)
    names = set(database.get_services())
    assert {"inference.GRPCInferenceService", "hyle.control.v1.Control", "grpc.health.v1.Health"} <= names
    pool = DescriptorPool(database)
    assert "ModelInfer" in pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name
    assert "Install" in pool.FindServiceByName("hyle.control.v1.Control").methods_by_name
    assert "Check" in pool.FindServiceByName("grpc.health.v1.Health").methods_by_name


@pytest.mark.parametrize("shift_s", [315_360_000, -1_795_000_000])
def test_the_age_of_a_calibration_is_no_matter_of_the_clock(
    deployed: object, channel: grpc.Channel, operator: Operator, monkeypatch: pytest.MonkeyPatch, shift_s: int
) -> None:
    clock = SimpleNamespace(time=lambda: time.time() + shift_s, monotonic=lambda: time.monotonic() + 1000.0)
    monkeypatch.setattr(answers, "time", clock)
    monkeypatch.setattr(models, "time", clock)
    answer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=20)
    assert 1000 <= answer.parameters["calibration_age_s"].int64_param < 1100
    assert 1000.0 <= operator.model().calibration_age_s < 1100.0
