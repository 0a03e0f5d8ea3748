"""The accuracy budget: kept where it is said to be kept, cheaper remedies first, and the frontier in the report."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from compiler_models import Compile
from hyle_compiler.backend import HyleBackend
from hyle_compiler.budget import Plan, apply, unit_of
from hyle_compiler.partition import partition
from hyle_compiler.simplify import simplify
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_ir import from_proto, to_proto

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
    replicas = [p["replicas"] for p in frontier if not p["digital"]]
    assert replicas == [1, 2, 4][: len(replicas)]
    assert bool(budget["sensitivity"]) == any(p["digital"] for p in frontier)


@pytest.mark.parametrize("text", ["x%", "-1%", "200%", ""])
def test_a_budget_that_is_no_share_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", "m.onnx", "--target", "pcm-generic", "--calib", "c.npz", "-o", "m.hyle"]
    assert main([*arguments, f"--max-drop={text}"]) == 2
    assert "percentage" in capsys.readouterr().err
