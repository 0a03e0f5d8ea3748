"""A compiled model with a layer on a black box: its twin in every graph, the device behind the driver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from boxes import Bent
from hyle_bundle import TensorFile, generate_key, load_private_key, open_bundle
from hyle_compiler.box_target import target_of
from hyle_compiler.errors import ModelError
from hyle_compiler.fitting.fit import FitOptions, fit_device
from hyle_compiler.fitting.graph import read_fit
from hyle_compiler.fitting.read_out import read_out
from hyle_compiler.pipeline import Compiled, Options, compile_model
from hyle_errors import CallerError, HyleError
from hyle_runtime.body import Body
from hyle_substrates.box_driver import BoxDriver
from hyle_substrates.driver import BlackBox
from hyle_substrates.profile import find_profile, load_profile
from hyle_substrates.twin import TwinDriver
from onnx import TensorProto, helper, numpy_helper

SETTING = np.array([0.2, -0.4], dtype=np.float32)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "bent.onnx"
    fit_device(Bent(), path, FitOptions(samples=600))
    return path


def task(count: int = 300, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, 6)).astype(np.float32)
    return x, np.digitize(np.sin(3.0 * x @ [1.0, -1.0, 0.5, 0.0, 0.3, 0.1]), [-0.3, 0.3])


@pytest.fixture(scope="module")
def model(twin: Path) -> Path:
    x, labels = task()
    path = twin.parent / "model.onnx"
    read_out(twin, x, labels, path, box=Bent(), parameters=SETTING, bypass=True)
    np.savez(twin.parent / "calib.npz", x=x[:100], labels=labels[:100])
    return path


def compiled(model: Path, twin: Path, target: str | None, out: Path, **options: Any) -> Compiled:
    profile, text = target_of(read_fit(twin)[0]) if target is None else find_profile(target)
    chosen = Options(instances=2, **options)
    return compile_model(model, twin.parent / "calib.npz", profile, text, out, chosen, options.get("key"))


def body_on(folder: Path, path: Path, driver: Any) -> Body:
    with open_bundle(path) as bundle:
        bundle.extract(folder)
        manifest = bundle.manifest
    tensors = [TensorFile(memoryview((folder / f"{n}.safetensors").read_bytes())) for n in ("programming", "golden")]
    body = Body(folder, manifest, *tensors, driver, threads=1)
    body.program()
    return body


def exact(model: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("target", [None, "ideal"])
def test_a_bundle_runs_on_the_device_that_its_twin_was_fitted_to(
    target: str | None, twin: Path, model: Path, tmp_path: Path
) -> None:
    done = compiled(model, twin, target, tmp_path / "m.hyle")
    (box,) = done.manifest.boxes
    assert (box.matter, box.identity, box.count) == ("bent", "bent:1", 2)
    assert done.report["black_boxes"][0]["correlation"] == box.correlation
    assert bool(done.manifest.layers) == (target == "ideal")
    device = Bent()
    driver = BoxDriver(device, TwinDriver(load_profile("ideal")) if target else None)
    body = body_on(tmp_path / "slot", tmp_path / "m.hyle", driver)
    tested = body.self_test()
    assert tested.passed
    assert device.samples == done.manifest.golden.samples
    x, _ = task(50, 2)
    got, want = body.run({"x": x})["scores"], exact(model, x)
    # The golden bound is one of the relative error; it holds for other samples of the same drive too.
    assert np.linalg.norm(got - want) <= done.manifest.golden.tolerance * np.linalg.norm(want)
    assert body.run({"x": x[:0]})["scores"].shape == (0, 3)
    with pytest.raises(HyleError, match="not finite"):
        body.run({"x": np.full((1, 6), np.nan, np.float32)})


def test_the_twin_answers_where_no_device_is(twin: Path, model: Path, tmp_path: Path) -> None:
    done = compiled(model, twin, None, tmp_path / "m.hyle")
    body = body_on(tmp_path / "slot", tmp_path / "m.hyle", TwinDriver(load_profile("pcm-hermes")))
    assert body.whole
    assert body.self_test().passed
    program = onnx.load(tmp_path / "slot/program.onnx", load_external_data=False)
    assert [function.domain for function in program.functions] == ["hyle.physical"]
    x, _ = task(50, 3)
    want = exact(model, x)
    session = ort.InferenceSession(str(tmp_path / "slot/program.onnx"), providers=["CPUExecutionProvider"])
    for got in (body.run({"x": x})["scores"], session.run(None, {"x": x})[0]):
        assert 0.0 < np.linalg.norm(got - want) <= done.manifest.golden.tolerance * np.linalg.norm(want)


class _Other(Bent):
    """Another device of the same kind: it mixes its inputs in another way."""

    def __init__(self) -> None:
        super().__init__()
        self._matrix = self._matrix[::-1].copy()


def test_another_device_does_not_pass_the_self_test_and_one_of_other_sizes_is_refused(
    twin: Path, model: Path, tmp_path: Path
) -> None:
    compiled(model, twin, None, tmp_path / "m.hyle")
    body = body_on(tmp_path / "slot", tmp_path / "m.hyle", BoxDriver(_Other()))
    assert not body.self_test().passed
    for number, wrong in enumerate((Bent(inputs=7), Bent(outputs=4), Bent(parameters=0), Bent(low=-0.5, high=0.5))):
        with pytest.raises(CallerError, match="wants 2 parameters, 6 inputs and 5 readings"):
            body_on(tmp_path / f"slot{number}", tmp_path / "m.hyle", BoxDriver(wrong))


def test_a_bundle_with_a_black_box_is_signed_and_repeats_itself(twin: Path, model: Path, tmp_path: Path) -> None:
    generate_key("me", tmp_path)
    key = load_private_key(tmp_path / "me.key")
    profile, text = target_of(read_fit(twin)[0])
    digests = set()
    for name in ("a.hyle", "b.hyle"):
        options = Options(instances=2)
        digests.add(
            compile_model(model, twin.parent / "calib.npz", profile, text, tmp_path / name, options, key).digest
        )
    assert len(digests) == 1
    with open_bundle(tmp_path / "a.hyle") as bundle:
        assert bundle.signer == key.public.fingerprint


def written(
    path: Path, nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: int, domain: bool = True
) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])
    y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", outputs])
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("hyle.physical", 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def layer(inputs: Sequence[str] = ("x", "setting"), op: str = "bent") -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), ["h"], domain="hyle.physical", name="matter")


READ = helper.make_node("MatMul", ["h", "w"], ["scores"], name="read")
W = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def test_a_model_may_name_matter_whose_twin_the_compiler_is_given(twin: Path, model: Path, tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.onnx", [layer(), READ], {"setting": SETTING, "w": W}, 3)
    done = compiled(plain, twin, "ideal", tmp_path / "m.hyle", black_boxes={"bent": twin})
    assert [box.name for box in done.manifest.boxes] == ["matter"]
    body = body_on(
        tmp_path / "slot", tmp_path / "m.hyle", BoxDriver(Bent(noise=0.0), TwinDriver(load_profile("ideal")))
    )
    x, _ = task(20, 4)
    want = Bent().exact(np.tile(SETTING.astype(np.float64), (20, 1)), x.astype(np.float64)) @ W
    # Single precision on both sides of the device.
    np.testing.assert_allclose(body.run({"x": x})["scores"], want, rtol=1e-4, atol=1e-5)


def test_a_named_node_is_replaced_by_matter(tmp_path: Path) -> None:
    twin = tmp_path / "mixer.onnx"
    fit_device(Bent(parameters=0, bend=1e-3), twin, FitOptions(samples=200))
    np.savez(tmp_path / "calib.npz", x=task(50)[0])
    first = helper.make_node("MatMul", ["x", "v"], ["h"], name="mix")
    v = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
    plain = written(tmp_path / "plain.onnx", [first, READ], {"v": v, "w": W}, 3, domain=False)
    done = compiled(plain, twin, "ideal", tmp_path / "m.hyle", black_boxes={"mix": twin})
    assert [box.matter for box in done.manifest.boxes] == ["mixer"]
    with pytest.raises(ModelError, match="no node 'blend'"):
        compiled(plain, twin, "ideal", tmp_path / "n.hyle", black_boxes={"blend": twin})
    assert not (tmp_path / "n.hyle").exists()


@pytest.mark.parametrize(
    ("nodes", "constants", "match"),
    [
        ([layer(op="other"), READ], {"setting": SETTING}, "no node .bent. to run on"),
        ([layer(("x",)), READ], {}, "the model gives 0"),
        ([layer(), READ], {"setting": SETTING[:1]}, "the model gives 1"),
        ([layer(), READ], {"setting": 5.0 * SETTING}, "leaves"),
        (
            [helper.make_node("Gather", ["x", "i"], ["r"], axis=0), layer(("x", "r")), READ],
            {"i": np.array(0)},
            "computed at run time",
        ),
        (
            [helper.make_node("Concat", ["x", "x"], ["xx"], axis=1), layer(("xx", "setting")), READ],
            {"setting": SETTING},
            "takes samples by 6",
        ),
    ],
)
def test_a_layer_that_does_not_fit_its_matter_is_refused(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    match: str,
    twin: Path,
    model: Path,
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "wrong.onnx", nodes, {**constants, "w": W}, 3)
    with pytest.raises(ModelError, match=match):
        compiled(path, twin, "ideal", tmp_path / "m.hyle", black_boxes={"bent": twin})
    assert not (tmp_path / "m.hyle").exists()


def test_a_read_out_refuses_samples_that_do_not_serve(twin: Path, tmp_path: Path) -> None:
    x, labels = task(50)
    for wrong_x, wrong_y in (
        (x[:5], labels[:5]),
        (x, labels[:-1]),
        (np.full_like(x, np.nan), labels),
        (x, -1 - labels),
    ):
        with pytest.raises(CallerError):
            read_out(twin, wrong_x, wrong_y, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    assert isinstance(Bent(), BlackBox)
