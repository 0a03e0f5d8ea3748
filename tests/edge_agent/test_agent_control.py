"""The control service over gRPC, from plan to removal; what fails changes nothing."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from agent_fakes import ROWS, FakeExecutor, Operator, Running, chunks, config_for, debris, make_bundle, running, weights
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hyle_bundle import generate_key, load_private_key, open_bundle
from hyle_protos.control import control_pb2 as pb
from hyle_protos.inference import inference_pb2 as oip
from hyle_protos.inference import inference_pb2_grpc

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def request(name: str = "small") -> oip.ModelInferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, ROWS])
    data = np.ones((1, ROWS), "<f4").tobytes()
    return oip.ModelInferRequest(model_name=name, inputs=[tensor], raw_input_contents=[data])


def version_that_answers(channel: grpc.Channel) -> int:
    response = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request())
    y = np.frombuffer(response.raw_output_contents[0], "<f4")
    found = [v for v in range(1, 9) if np.array_equal(y, np.ones(ROWS, np.float32) @ weights(v))]
    assert [response.model_version] == [str(v) for v in found]
    return found[0]


def refused(call: object, *args: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args)
    return caught.value


def test_a_second_version_travels_only_where_it_differs(operator: Operator, tmp_path: Path, store: Path) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    with open_bundle(make_bundle(tmp_path, 2)) as second:
        missing = operator.plan(second)
        assert second.manifest.files["shared.bin"].sha256 not in missing
        assert len(missing) == 3
        assert operator.upload(second, missing).blobs == 3
        assert operator.plan(second) == []


def test_installing_leaves_the_old_version_serving_until_activation(
    operator: Operator, channel: grpc.Channel, tmp_path: Path, store: Path
) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    second = operator.install(make_bundle(tmp_path, 2))
    assert (second.slot, second.self_test.passed) == ("b", True)
    assert version_that_answers(channel) == 1
    operator.stub.Activate(pb.ActivateRequest(model="small", digest=second.digest))
    assert version_that_answers(channel) == 2
    status = operator.model()
    assert (status.active, [slot.version for slot in status.slots]) == ("b", ["1", "2"])
    assert debris(store) == []


def test_a_rollback_lets_the_previous_version_serve_and_says_so(
    operator: Operator, channel: grpc.Channel, tmp_path: Path
) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    operator.deploy(make_bundle(tmp_path, 2))
    back = operator.stub.Rollback(pb.RollbackRequest(model="small"))
    assert (back.slot, back.version) == ("a", "1")
    assert version_that_answers(channel) == 1
    assert operator.model().reason == "rolled back from version 2 by the operator"
    forth = operator.stub.Rollback(pb.RollbackRequest(model="small"))
    assert forth.version == "2"


def test_an_installed_but_never_active_slot_is_no_rollback_target(operator: Operator, tmp_path: Path) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    operator.install(make_bundle(tmp_path, 2))
    error = refused(operator.stub.Rollback, pb.RollbackRequest(model="small"))
    assert error.code() is PRECONDITION
    assert "no previous slot" in error.details()


def test_installing_what_is_installed_changes_nothing(operator: Operator, tmp_path: Path, store: Path) -> None:
    first = operator.deploy(make_bundle(tmp_path, 1))
    again = operator.install(make_bundle(tmp_path, 1))
    assert (again.slot, again.digest) == (first.slot, first.digest)
    assert debris(store) == []


def test_an_older_bundle_is_refused_before_a_byte_travels(operator: Operator, tmp_path: Path) -> None:
    operator.deploy(make_bundle(tmp_path, 2))
    with open_bundle(make_bundle(tmp_path, 1)) as older:
        error = refused(operator.plan, older)
    assert error.code() is PRECONDITION
    assert "counter 1, installed 2" in error.details()


def test_activating_an_older_slot_is_what_rollback_is_for(operator: Operator, tmp_path: Path) -> None:
    first = operator.deploy(make_bundle(tmp_path, 1))
    operator.deploy(make_bundle(tmp_path, 2))
    error = refused(operator.stub.Activate, pb.ActivateRequest(model="small", digest=first.digest))
    assert error.code() is PRECONDITION
    assert "older" in error.details()


def test_a_failed_self_test_leaves_the_old_version_and_no_debris(
    operator: Operator, channel: grpc.Channel, tmp_path: Path, store: Path
) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    error = refused(operator.install, make_bundle(tmp_path, 2, healthy=False))
    assert error.code() is PRECONDITION
    assert "residual is 1; 0.01 is allowed" in error.details()
    assert version_that_answers(channel) == 1
    assert [slot.version for slot in operator.model().slots] == ["1"]
    assert debris(store) == []


def test_a_failed_install_keeps_the_rollback_target(operator: Operator, channel: grpc.Channel, tmp_path: Path) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    operator.deploy(make_bundle(tmp_path, 2))
    refused(operator.install, make_bundle(tmp_path, 3, healthy=False))
    operator.stub.Rollback(pb.RollbackRequest(model="small"))
    assert version_that_answers(channel) == 1


def test_a_program_that_cannot_be_made_leaves_nothing(
    operator: Operator, agent: Running, tmp_path: Path, store: Path
) -> None:
    agent.executor.fail = RuntimeError("private")
    error = refused(operator.install, make_bundle(tmp_path, 1))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "private" not in error.details()
    assert debris(store) == []
    assert list((store / "blobs").iterdir()) == []
    agent.executor.fail = None
    assert operator.install(make_bundle(tmp_path, 1)).slot == "a"


def test_a_model_that_fails_its_self_test_is_recalibrated(operator: Operator, agent: Running, tmp_path: Path) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    agent.executor.programs[-1].sick = 1
    report = operator.stub.SelfTest(pb.SelfTestRequest(model="small")).report
    assert report.passed
    assert agent.executor.calls[-3:] == ["self_test 1", "recalibrate 1", "self_test 1"]


def test_a_model_that_stays_sick_is_taken_out_and_comes_back_when_well(
    operator: Operator, agent: Running, channel: grpc.Channel, tmp_path: Path
) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    agent.executor.programs[-1].sick = 5
    report = operator.stub.SelfTest(pb.SelfTestRequest(model="small")).report
    assert not report.passed
    # Five sick, one recalibration; the golden sum of four float32 terms of magnitude 2 rounds within 4 · 2^-23.
    assert report.residual == pytest.approx(4.0, abs=4 * 2**-23)
    status = operator.model()
    assert not status.ready
    assert "residual is 4" in status.reason
    assert not agent.agent.snapshot().models[0].ready
    error = refused(inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, request())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    agent.executor.programs[-1].sick = 0
    assert operator.stub.SelfTest(pb.SelfTestRequest(model="small")).report.passed
    assert version_that_answers(channel) == 1


def test_removing_a_model_leaves_nothing_of_it(
    operator: Operator, channel: grpc.Channel, tmp_path: Path, store: Path
) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    operator.deploy(make_bundle(tmp_path, 1, name="other"))
    operator.stub.Remove(pb.RemoveRequest(model="small"))
    assert debris(store) == []
    assert [path.name for path in (store / "models").iterdir()] == ["other"]
    error = refused(inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, request())
    assert error.code() is grpc.StatusCode.NOT_FOUND
    operator.stub.Remove(pb.RemoveRequest(model="other"))
    assert list((store / "blobs").iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("Activate", pb.ActivateRequest(model="nobody")),
        ("Activate", pb.ActivateRequest(model="small", digest="f" * 64)),
        ("Rollback", pb.RollbackRequest(model="nobody")),
        ("SelfTest", pb.SelfTestRequest(model="nobody")),
        ("Remove", pb.RemoveRequest(model="nobody")),
    ],
)
def test_what_is_not_installed_is_not_found(operator: Operator, tmp_path: Path, call: str, message: object) -> None:
    operator.deploy(make_bundle(tmp_path, 1))
    assert refused(getattr(operator.stub, call), message).code() is grpc.StatusCode.NOT_FOUND


def test_a_model_without_an_active_slot_cannot_be_tested_loaded_or_asked(
    operator: Operator, channel: grpc.Channel, tmp_path: Path
) -> None:
    operator.install(make_bundle(tmp_path, 1))
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    for call, message in (
        (operator.stub.SelfTest, pb.SelfTestRequest(model="small")),
        (stub.RepositoryModelLoad, oip.RepositoryModelLoadRequest(model_name="small")),
        (stub.ModelInfer, request()),
    ):
        assert refused(call, message).code() is grpc.StatusCode.UNAVAILABLE
    assert stub.ModelReady(oip.ModelReadyRequest(name="small")).ready is False
    assert operator.model().reason == "no slot is active"


def test_a_model_that_cannot_be_loaded_again_says_why(
    operator: Operator, agent: Running, channel: grpc.Channel, tmp_path: Path, store: Path
) -> None:
    digest = operator.deploy(make_bundle(tmp_path, 1)).digest
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    (store / "models/small" / digest / "padding.bin").unlink()
    error = refused(stub.RepositoryModelLoad, oip.RepositoryModelLoadRequest(model_name="small"))
    assert operator.model().reason == f"could not be loaded: {error.details()}"
    assert not stub.ModelReady(oip.ModelReadyRequest(name="small")).ready
    heard = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="small"), timeout=10)
    assert any(told.status == health_pb2.HealthCheckResponse.NOT_SERVING for told in heard)


@pytest.mark.parametrize("kind", ["unannounced", "longer", "shorter", "other", "no digest", "wrong size"])
def test_an_upload_that_is_not_what_was_announced_leaves_nothing(
    operator: Operator, tmp_path: Path, store: Path, kind: str
) -> None:
    with open_bundle(make_bundle(tmp_path, 1)) as bundle:
        wanted = [] if kind == "unannounced" else operator.plan(bundle)
        digest = bundle.manifest.files["shared.bin"].sha256
        good = list(chunks(bundle, [digest]))
    assert wanted == [] or digest in wanted
    if kind == "longer":
        good.append(pb.BlobChunk(data=b"more"))
    if kind == "shorter":
        good.pop()
    if kind == "other":
        good[0].data = bytes(len(good[0].data))
    if kind == "no digest":
        good[0].sha256 = ""
    if kind == "wrong size":
        good[0].size += 1
    error = refused(operator.stub.Upload, iter(good))
    expected = PRECONDITION if kind in {"unannounced", "wrong size"} else grpc.StatusCode.INVALID_ARGUMENT
    assert error.code() is expected
    assert list((store / "staging").iterdir()) == []
    assert list((store / "blobs").iterdir()) == []


def test_a_blob_that_is_sent_twice_is_kept_once(operator: Operator, tmp_path: Path, store: Path) -> None:
    with open_bundle(make_bundle(tmp_path, 1)) as bundle:
        wanted = operator.plan(bundle)
        operator.upload(bundle, wanted)
        operator.upload(bundle, wanted)
    assert sorted(path.name for path in (store / "blobs").iterdir()) == sorted(wanted)
    operator.deploy(make_bundle(tmp_path, 1))
    assert debris(store) == []


def test_an_install_without_its_blobs_is_refused(operator: Operator, tmp_path: Path, store: Path) -> None:
    with open_bundle(make_bundle(tmp_path, 1)) as bundle:
        error = refused(operator.stub.Install, pb.InstallRequest(manifest=bundle.manifest_bytes))
    assert error.code() is PRECONDITION
    assert "has not been uploaded" in error.details()
    assert debris(store) == []


def test_a_manifest_that_is_none_is_refused(operator: Operator) -> None:
    error = refused(operator.stub.Install, pb.InstallRequest(manifest=b"{}"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "bundle.json is not a manifest" in error.details()


def test_only_bundles_of_trusted_keys_run_without_insecure(tmp_path: Path, store: Path) -> None:
    for name in ("mine", "strange"):
        generate_key(name, tmp_path)
    mine, strange = (load_private_key(tmp_path / f"{name}.key") for name in ("mine", "strange"))
    config = config_for(store, insecure=False, trusted=(str(tmp_path / "mine.pub"),))
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        for number, key in enumerate((None, strange)):
            (tmp_path / str(number)).mkdir()
            bundle = make_bundle(tmp_path / str(number), 1, key=key)
            error = refused(operator.install, bundle)
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            with open_bundle(bundle) as opened:
                message = pb.InstallRequest(manifest=opened.manifest_bytes, signature=opened.signature_bytes or b"")
            assert refused(operator.stub.Install, message).code() is grpc.StatusCode.PERMISSION_DENIED
        assert operator.deploy(make_bundle(tmp_path, 1, key=mine)).self_test.passed
        assert operator.model().slots[0].signer == mine.public.fingerprint


def test_the_signature_is_checked_before_the_manifest_is_read(tmp_path: Path, store: Path) -> None:
    config = config_for(store, insecure=False)
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        error = refused(Operator(channel).stub.Plan, pb.PlanRequest(manifest=b"{ no manifest"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


def test_status_names_node_device_and_tiles(operator: Operator) -> None:
    status = operator.stub.Status(pb.StatusRequest())
    assert (status.node, status.device.driver, status.device.profile) == ("n", "twin", "pcm-hermes")
    assert status.device.simulated
    assert status.device.identity == "twin:pcm-hermes:0"
    assert status.device.tiles > 0
    assert status.uptime_s >= 0


def test_an_agent_boots_into_what_was_active(tmp_path: Path, store: Path) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        Operator(channel).deploy(make_bundle(tmp_path, 2))
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        assert version_that_answers(channel) == 2
        assert Operator(channel).stub.Rollback(pb.RollbackRequest(model="small")).version == "1"
        assert version_that_answers(channel) == 1


class SickExecutor(FakeExecutor):
    """Programs of one version fail their self-test."""

    def __init__(self, *versions: str) -> None:
        super().__init__()
        self.versions = versions

    def __call__(self, *args: object, **options: object) -> object:
        program = super().__call__(*args, **options)
        program.sick = 9 if program.manifest.version in self.versions else 0
        return program


@pytest.mark.parametrize(("sick", "serves"), [(["2"], 1), (["1", "2"], 0)])
def test_a_boot_falls_back_to_the_other_slot_and_says_so(
    tmp_path: Path, store: Path, sick: list[str], serves: int
) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        Operator(channel).deploy(make_bundle(tmp_path, 1))
        Operator(channel).deploy(make_bundle(tmp_path, 2))
    with running(config_for(store), SickExecutor(*sick)) as agent, grpc.insecure_channel(agent.address) as channel:
        status = Operator(channel).model()
        assert "slot b (version 2) could not start: The self-test's residual is 9" in status.reason
        assert status.ready is bool(serves)
        if serves:
            assert "Slot a serves instead" in status.reason
            assert version_that_answers(channel) == serves
        else:
            assert "Slot a could not start either" in status.reason


@pytest.mark.parametrize("damage", ["content", "missing", "manifest"])
def test_a_boot_refuses_files_that_changed_on_the_disk(tmp_path: Path, store: Path, damage: str) -> None:
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        digest = Operator(channel).deploy(make_bundle(tmp_path, 1)).digest
    victim = store / "models/small" / digest / ("bundle.json" if damage == "manifest" else "segments/0.bin")
    raw = victim.read_bytes()
    victim.unlink()
    if damage != "missing":
        victim.write_bytes(raw.replace(b'"version": "1"', b'"version": "7"') if damage == "manifest" else raw[::-1])
    with running(config_for(store)) as agent, grpc.insecure_channel(agent.address) as channel:
        status = Operator(channel).model()
    assert not status.ready
    assert "could not start" in status.reason


def test_a_plan_for_a_lent_device_is_refused_before_anything_is_sent(
    tmp_path: Path, operator: Operator, agent: Running
) -> None:
    agent.agent._loader.lent = lambda: "somebody has the device"
    with open_bundle(make_bundle(tmp_path, 1)) as bundle:
        error = refused(operator.plan, bundle)
    assert error.code() is PRECONDITION
    assert "Nothing can be changed now: somebody has the device." in error.details()
