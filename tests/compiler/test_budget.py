"""The accuracy budget: kept where it is said to be kept, cheaper remedies first, and the frontier in the report."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from compiler_models import Compile
from hyle_compiler.activations import Observed
from hyle_compiler.backend import HyleBackend
from hyle_compiler.budget import Plan, apply, unit_of
from hyle_compiler.calibrate_layers import calibrate_layers
from hyle_compiler.partition import partition
from hyle_compiler.place import place
from hyle_compiler.simplify import simplify
from hyle_substrates.profile import load_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_ir import Model, from_proto, to_proto

from hyle.cli import main

DAY_S = 86400.0


def two_layers(seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in {"a": (6, 5), "b": (5, 4)}.items()
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"], name="second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(0, 99))
def test_replicas_never_change_the_answer(replicas: int, seed: int) -> None:
    proto = two_layers(seed)
    model = simplify(from_proto(proto))
    parts = apply(model, Plan(replicas=replicas))
    assert len(parts.physical) == 2 * replicas
    assert {unit_of(layer.name) for layer in parts.physical} == {"first", "second"}
    x = np.random.default_rng(seed).standard_normal((3, 6)).astype(np.float32)
    (want,), (got,) = HyleBackend.run_model(proto, [x]), HyleBackend.run_model(to_proto(model), [x])
    # The mean of equal float32 numbers rounds at most once a replica; the second layer sums five such.
    bound = 8 * replicas * float(np.finfo(np.float32).eps) * float(np.abs(want).max() + 1)
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)


def test_a_plan_leaves_its_operators_digital_and_says_why() -> None:
    model = simplify(from_proto(two_layers()))
    parts = apply(model, Plan(frozenset({"first"}), 2))
    assert [layer.name for layer in parts.physical] == ["second_copy0", "second_copy1"]
    assert [(d.node, d.reason) for d in parts.digital] == [("first", "the accuracy budget needs it digital")]
    assert len(partition(model).physical) == 3


@pytest.mark.parametrize("max_drop", [0.0, 1.0])
def test_the_chosen_plan_keeps_the_budget_or_says_that_none_does(compile_for: Compile, max_drop: float) -> None:
    opened = compile_for("digits_mlp", "pcm-generic", tag=f"{max_drop}", max_drop=max_drop, budget_ages_s=(DAY_S,))
    budget = opened.compiled.report["budget"]
    chosen, frontier = budget["chosen"], budget["frontier"]
    assert chosen in frontier
    good = [p for p in frontier if p["drop"] + p["standard_error"] <= max_drop]
    assert budget["kept"] == bool(good)
    if good:
        assert chosen in good
        assert chosen["share_of_macs"] == max(p["share_of_macs"] for p in good)
    assert {entry["node"] for entry in opened.compiled.report["digital"]} >= set(chosen["digital"])
    assert len(opened.manifest.layers) % chosen["replicas"] == 0
    if max_drop == 1.0:
        assert frontier == [chosen]
        assert (chosen["share_of_macs"], chosen["replicas"]) == (1.0, 1)
    cheaper = [(p["replicas"], p["clipped"]) for p in frontier if not p["digital"]]
    assert cheaper == [(1, False), (1, True), (2, True), (4, True)][: len(cheaper)]
    assert bool(budget["sensitivity"]) == any(p["digital"] for p in frontier)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.floats(1.0, 30.0), st.integers(0, 99))
def test_weights_are_clipped_only_where_less_error_is_expected(outlier: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    profile = load_profile("pcm-generic")
    weight = rng.standard_normal((40, 8)).astype(np.float32)
    weight[0] *= outlier
    vectors = np.maximum(rng.standard_normal((64, 40)), 0).astype(np.float32)
    vectors[:, 0] *= 0.01
    model = one_product(weight)
    placed = place(partition(model).physical, profile)
    scales = np.abs(vectors).max(axis=1)
    seen = {"layer": Observed(vectors, scales, np.abs(vectors).reshape(-1), float(vectors.max()), 1.0)}
    plain, clipped = (
        calibrate_layers(placed, seen, profile, copies=1, seed=seed, clip=clip)[0] for clip in (False, True)
    )
    assert clipped.error <= plain.error
    tops = clipped.placed.blocks[0].top / plain.placed.blocks[0].top
    assert np.ptp(tops) < 1e-6
    if outlier > 10.0:
        # The outlier's row is hardly driven: cutting it costs little, and all other weights fill the range.
        assert tops[0] == pytest.approx(0.5)
    largest = np.abs(clipped.placed.blocks[0].levels).max()
    assert largest == profile.weights.levels


def one_product(weight: np.ndarray) -> Model:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return simplify(from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))


@pytest.mark.parametrize("text", ["x%", "-1%", "200%", ""])
def test_a_budget_that_is_no_share_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", "m.onnx", "--target", "pcm-generic", "--calib", "c.npz", "-o", "m.hyle"]
    assert main([*arguments, f"--max-drop={text}"]) == 2
    assert "percentage" in capsys.readouterr().err
