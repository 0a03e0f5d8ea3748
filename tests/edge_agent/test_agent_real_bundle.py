"""The whole way: a model compiled for phase-change memory, signed, served by the command, asked by Triton's client."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import grpc
import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton
from agent_fakes import Operator, config_for, debris, running
from hyle_agent.config import DriverConfig
from hyle_bundle import generate_key, open_bundle
from hyle_protos.control import control_pb2 as pb
from hyle_substrates.profile import find_profile
from onnx import TensorProto, helper, numpy_helper
from test_agent_command import Served
from tritonclient.utils import InferenceServerException

MODEL = Path(__file__).parents[1] / "data/digits_mlp"


def compile_digits(folder: Path, version: str) -> Path:
    """Compile the digits model with the key `me` that lies in `folder`."""
    words = f"{MODEL}/model.onnx --target pcm-hermes --calib {MODEL}/calib.npz -o {folder}/{version}.hyle"
    words += f" --key {folder}/me.key --name digits --version {version} --counter {version} --seed {version}"
    command = [sys.executable, "-m", "hyle", "compile", *words.split(), "--instances", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / f"{version}.hyle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, and the model compiled twice: as version 1, and with another seed as version 2."""
    made = tmp_path_factory.mktemp("real")
    generate_key("me", made)
    for version in ("1", "2"):
        compile_digits(made, version)
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("pcm-generic", b"", b""), "was compiled for 'pcm-hermes'; the device is a 'pcm-generic'"),
        (("pcm-hermes", b"count = 64", b"count = 1"), "needs 3 neighbouring tiles; the device has 1"),
    ],
)
def test_a_bundle_that_the_device_cannot_hold_is_refused_before_its_files_travel(
    folder: Path, tmp_path: Path, store: Path, change: tuple[str, bytes, bytes], said: str
) -> None:
    name, old, new = change
    _, text = find_profile(name)
    assert old in text
    (tmp_path / "device.toml").write_bytes(text.replace(old, new))
    driver = DriverConfig("twin", {"profile": str(tmp_path / "device.toml")})
    config = msgspec.structs.replace(config_for(store), driver=driver)
    with (
        running(config) as agent,
        grpc.insecure_channel(agent.address) as channel,
        open_bundle(folder / "1.hyle") as bundle,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Operator(channel).plan(bundle)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert said in caught.value.details()
    assert debris(store) == []


def compile_table(folder: Path, version: int) -> Path:
    """Compile a model that looks its input up in a table of ten rows."""
    draws = np.random.default_rng(version)
    table, weight = (draws.normal(size=size).astype(np.float32) for size in ((10, 8), (8, 4)))
    nodes = [helper.make_node("Gather", ["table", "x"], ["row"]), helper.make_node("MatMul", ["row", "weight"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "table.onnx")
    np.savez(folder / "table.npz", x=draws.integers(0, 10, 64))
    words = f"{folder}/table.onnx --target pcm-hermes --calib {folder}/table.npz -o {folder}/table-{version}.hyle"
    words += f" --version {version} --counter {version} --instances 1"
    command = [sys.executable, "-m", "hyle", "compile", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / f"table-{version}.hyle"


def test_an_index_beyond_a_table_is_the_callers_mistake_and_ends_no_trial(tmp_path: Path) -> None:
    bundles = [compile_table(tmp_path, version) for version in (1, 2)]
    (tmp_path / "agent.toml").write_text("self_test_interval_s = 0.2\nwatch_s = 5.0\n")
    with (
        Served(tmp_path, "--config", str(tmp_path / "agent.toml"), "--insecure") as served,
        grpc.insecure_channel(served.address) as channel,
        triton.InferenceServerClient(served.address) as client,
    ):
        operator = Operator(channel)
        operator.deploy(bundles[0])
        operator.deploy(bundles[1])

        def ask(index: int) -> None:
            tensor = triton.InferInput("x", [1], "INT64")
            tensor.set_data_from_numpy(np.array([index]))
            client.infer("table", [tensor])

        for _ in range(4):
            with pytest.raises(InferenceServerException, match="a value that the model cannot take") as caught:
                ask(10)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        ask(9)
        end = time.monotonic() + 60.0
        while (model := operator.model("table")).on_trial:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert (model.rollbacks, model.reason) == (0, "")
        assert {slot.slot: slot.version for slot in model.slots}[model.active] == "2"


def evaluation() -> tuple[np.ndarray, np.ndarray]:
    with np.load(MODEL / "eval.npz") as data:
        name = next(key for key in data.files if key != "labels")
        return data[name].astype(np.float32), data["labels"]


def correct(client: triton.InferenceServerClient, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    metadata = client.get_model_metadata("digits")
    tensor = triton.InferInput(metadata.inputs[0].name, list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return client.infer("digits", [tensor]).as_numpy(metadata.outputs[0].name).argmax(1) == labels


def test_a_compiled_model_answers_on_the_twin_and_survives_a_restart(folder: Path, tmp_path: Path) -> None:
    x, labels = evaluation()
    session = ort.InferenceSession(str(MODEL / "model.onnx"), providers=["CPUExecutionProvider"])
    exact = session.run(None, {session.get_inputs()[0].name: x})[0].argmax(1) == labels
    with (
        Served(tmp_path, "--trust", str(folder / "me.pub")) as served,
        grpc.insecure_channel(served.address) as channel,
        triton.InferenceServerClient(served.address) as client,
    ):
        operator = Operator(channel)
        for version in ("1", "2"):
            report = operator.deploy(folder / f"{version}.hyle").self_test
            assert report.passed
            assert 0 < report.residual <= report.tolerance
        assert client.get_model_metadata("digits").platform == "hyle_twin"
        # A compiled model may lose a point (the project's goal at one day); beyond it lies only the chance of 450
        # samples, of which three standard errors of a paired difference are allowed.
        right = correct(client, x, labels)
        error = 3 * np.sqrt(np.mean(right != exact) / len(x))
        assert right.mean() >= exact.mean() - 0.01 - error
        device = operator.stub.Status(pb.StatusRequest()).device
        assert device.tiles_used == 6
        operator.stub.Rollback(pb.RollbackRequest(model="digits"))
        assert list(client.get_model_metadata("digits").versions) == ["1"]
        for scale in (1e3, 1e30):
            with pytest.raises(InferenceServerException, match="magnitudes that the DAC can represent"):
                correct(client, x * np.float32(scale), labels)
        before = correct(client, x, labels).mean()
    with (
        Served(tmp_path, "--trust", str(folder / "me.pub")) as again,
        grpc.insecure_channel(again.address) as channel,
        triton.InferenceServerClient(again.address) as client,
    ):
        assert list(client.get_model_metadata("digits").versions) == ["1"]
        assert abs(correct(client, x, labels).mean() - before) <= 0.01 + error
        assert Operator(channel).stub.SelfTest(pb.SelfTestRequest(model="digits")).report.passed
    assert (served.process.returncode, again.process.returncode) == (0, 0)
    assert debris(tmp_path / "store") == []


def test_a_bundle_for_another_device_is_refused(folder: Path, tmp_path: Path) -> None:
    with (
        Served(tmp_path, "--trust", str(folder / "me.pub"), "--profile", "ideal") as served,
        grpc.insecure_channel(served.address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Operator(channel).install(folder / "1.hyle")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "compiled for 'pcm-hermes'" in caught.value.details()
    assert debris(tmp_path / "store") == []


def test_a_signature_by_a_stranger_is_refused_by_the_command(folder: Path, tmp_path: Path) -> None:
    generate_key("other", tmp_path)
    with (
        Served(tmp_path, "--trust", str(tmp_path / "other.pub")) as served,
        grpc.insecure_channel(served.address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Operator(channel).install(folder / "1.hyle")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "is not trusted" in caught.value.details()
