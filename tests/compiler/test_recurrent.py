"""LSTM, GRU and RNN: input and recurrent matrices on physics, for every form of the operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_bundle import open_bundle
from hyle_compiler.backend import HyleBackend
from hyle_compiler.evaluate import exact_body
from hyle_compiler.partition import partition
from hyle_compiler.pipeline import Options, compile_model
from hyle_compiler.simplify import simplify
from hyle_substrates.profile import find_profile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_ir import from_proto

Array = np.ndarray[Any, Any]
LAW = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
EPS = float(np.finfo(np.float32).eps)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LAYERS = {"LSTM": 2, "GRU": 3, "RNN": 2}
STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


def recurrent(
    op: str, direction: str, given_inputs: frozenset[str], seed: int, opset: int = 17, **attributes: Any
) -> onnx.ModelProto:
    """One operator; `given_inputs` of B, L (lengths), S (initial states) and P (peepholes)."""
    rng = np.random.default_rng(seed)
    count = 2 if direction == "bidirectional" else 1
    batch_first = attributes.get("layout", 0) == 1
    state = (BATCH, count, HIDDEN) if batch_first else (count, BATCH, HIDDEN)
    arrays = {
        "W": rng.normal(size=(count, GATES[op] * HIDDEN, SIZE)),
        "R": rng.normal(size=(count, GATES[op] * HIDDEN, HIDDEN)) / 2,
    }
    names = ["x", "W", "R", "", "", ""]
    if "B" in given_inputs:
        arrays["B"], names[3] = rng.normal(size=(count, 2 * GATES[op] * HIDDEN)), "B"
    if "S" in given_inputs:
        arrays["h"], names[5] = rng.normal(size=state), "h"
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    if "L" in given_inputs:
        names[4] = "L"
        weights.append(numpy_helper.from_array(rng.integers(1, STEPS + 1, BATCH).astype(np.int32), "L"))
    outputs = ["y", "yh"]
    if op == "LSTM":
        names += ["h" if "S" in given_inputs else "", "P" if "P" in given_inputs else ""]
        weights += [numpy_helper.from_array(rng.normal(size=(count, 3 * HIDDEN)).astype(np.float32), "P")]
        outputs.append("yc")
    shape = [BATCH, STEPS, SIZE] if batch_first else [STEPS, BATCH, SIZE]
    graph = helper.make_graph(
        [helper.make_node(op, names, outputs, name="cell", hidden_size=HIDDEN, direction=direction, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def sequence(seed: int) -> Array:
    return np.random.default_rng(seed + 1).standard_normal((STEPS, BATCH, SIZE)).astype(np.float32)


def close(got: Array, want: Array) -> None:
    """Up to 5 steps of sums of at most 10 products into functions that stretch by at most 1, states of at most 5."""
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=2 * STEPS * 2 * (SIZE + HIDDEN) * EPS * 5)


inputs_given = st.frozensets(st.sampled_from(["B", "L", "S", "P"]))
directions = st.sampled_from(["forward", "reverse", "bidirectional"])
seeds = st.integers(0, 2**16)


@pytest.mark.parametrize("op", GATES)
@LAW
@given(directions, inputs_given, st.booleans(), seeds)
def test_ideal_matter_answers_as_onnxruntime_does(
    op: str, direction: str, parts: frozenset[str], linear: bool, seed: int
) -> None:
    attributes = {"linear_before_reset": 1} if op == "GRU" and linear else {}
    model = recurrent(op, direction, parts, seed, **attributes)
    x = sequence(seed)
    want = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    rep = HyleBackend.prepare(model)
    for a, b in zip(rep.run([x]), want, strict=True):
        close(a, b)
    per_direction = LAYERS[op] - (op == "GRU" and linear)
    assert len(rep.layers) == per_direction * (2 if direction == "bidirectional" else 1)


@pytest.mark.parametrize("op", GATES)
@settings(parent=LAW, max_examples=3)
@given(directions, inputs_given, seeds)
def test_the_program_and_the_driver_see_the_same_physics(
    op: str, direction: str, parts: frozenset[str], seed: int
) -> None:
    """Without noise both round to the same codes but where a sum lies near a half; gates then move by a code's worth.

    An ADC code is 12/255 of a full scale. Few answers move at all; none by more than the answers' own range of 2.
    """
    rep = HyleBackend.prepare(recurrent(op, direction, parts, seed), target="pcm-generic")
    x = sequence(seed)
    rep.run([x])
    stepped, fused = (
        exact_body(rep.folder, rep.manifest, rep.profile, fused=way).run({"x": x}) for way in (False, True)
    )
    for name, a in stepped.items():
        assert np.mean(np.abs(a - fused[name]) <= 1e-5 * np.abs(a).max()) >= 0.9
        assert np.abs(a - fused[name]).max() <= 2.0


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_batch_first_is_time_first_turned(op: str, direction: str) -> None:
    """onnxruntime's CPU has no layout 1, so the same weights in layout 0 are the oracle."""
    x = sequence(3)
    want = ort.InferenceSession(recurrent(op, direction, frozenset("B"), 3).SerializeToString()).run(None, {"x": x})
    rep = HyleBackend.prepare(recurrent(op, direction, frozenset("B"), 3, layout=1))
    got = rep.run([x.swapaxes(0, 1)])
    close(got[0], want[0].transpose(2, 0, 1, 3))
    for a, b in zip(got[1:], want[1:], strict=True):
        close(a, b.transpose(1, 0, 2))


@pytest.mark.parametrize("names", [("Relu", "Tanh"), ("HardSigmoid", "Softsign"), ("Sigmoid", "Elu")])
def test_other_activation_functions(names: tuple[str, str]) -> None:
    model = recurrent("GRU", "forward", frozenset("B"), 4, activations=list(names))
    x = sequence(4) / 4
    rep = HyleBackend.prepare(model)
    for a, b in zip(rep.run([x]), ort.InferenceSession(model.SerializeToString()).run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert rep.layers


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("LSTM", {"clip": 2.0}, "it clips what its gates see"),
        ("LSTM", {"input_forget": 1}, "its input and forget gates are coupled"),
        ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5]}, "its activation functions have parameters"),
        ("RNN", {"activations": ["ThresholdedRelu"]}, "it has the activation function thresholdedrelu"),
    ],
)
def test_rare_forms_stay_digital_and_say_why(op: str, attributes: dict[str, Any], reason: str) -> None:
    model = recurrent(op, "forward", frozenset("B"), 5, **attributes)
    parts = partition(simplify(from_proto(model)))
    assert not parts.physical
    assert [(d.node, d.reason) for d in parts.digital] == [("cell", reason)]
    x = sequence(5)
    for a, b in zip(
        HyleBackend.run_model(model, [x]),
        ort.InferenceSession(model.SerializeToString()).run(None, {"x": x}),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_tagger_goes_the_whole_way(tmp_path: Path) -> None:
    """Batch first, an LSTM both ways over a free number of steps, then a label a token."""
    rng = np.random.default_rng(0)
    hidden, size, words = 8, 6, 20
    weights = {
        "emb": rng.normal(size=(words, size)),
        "W": rng.normal(size=(2, 4 * hidden, size)),
        "R": rng.normal(size=(2, 4 * hidden, hidden)) / 3,
        "B": rng.normal(size=(2, 8 * hidden)),
        "V": rng.normal(size=(2 * hidden, 5)),
    }
    nodes = [
        helper.make_node("Gather", ["emb", "ids"], ["e"]),
        helper.make_node("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "W", "R", "B"], ["h"], hidden_size=hidden, direction="bidirectional", name="l"),
        helper.make_node("Transpose", ["h"], ["b"], perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["b", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "V"], ["y"], name="tag"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", 5])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
        + [numpy_helper.from_array(np.array([0, 0, -1]), "flat")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "m.onnx")
    )
    np.savez(tmp_path / "c.npz", ids=rng.integers(0, words, (40, 7)))
    other = {"ids": rng.integers(0, words, (3, 11))}
    want = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, other)[0]
    for target in ("ideal", "pcm-generic"):
        profile, text = find_profile(target)
        done = compile_model(
            tmp_path / "m.onnx", tmp_path / "c.npz", profile, text, tmp_path / f"{target}.hyle", Options(instances=2)
        )
        with open_bundle(tmp_path / f"{target}.hyle") as bundle:
            bundle.extract(tmp_path / target)
        assert {layer.name for layer in done.manifest.layers} == {
            *(f"l_{way}_{part}" for way in ("forward", "reverse") for part in ("input", "recurrent")),
            "tag",
        }
        macs = {layer.name: layer.macs for layer in done.manifest.layers}
        assert macs["l_forward_recurrent"] == 7 * 4 * hidden * hidden
        for fused in (True, False):
            got = exact_body(tmp_path / target, done.manifest, profile, fused=fused).run(other)["y"]
            assert got.shape == want.shape
            if target == "ideal":
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * float(np.ptp(want)))
            else:
                assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.98
