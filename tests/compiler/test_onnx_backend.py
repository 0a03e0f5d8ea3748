"""ONNX's own backend test suite, over the whole way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hyle_compiler.backend import HyleBackend
from hyle_errors import HyleError
from onnx import TensorProto, helper

SUITE = Path(__file__).with_name("onnx_suite.py")
WORKERS = 2
LIMIT_S = 600


def run_suite(backend: str) -> dict[str, tuple[str, str]]:
    """Outcome and message of every case, from two processes."""
    env = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SUITE), backend, str(i), str(WORKERS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )
        for i in range(WORKERS)
    ]
    found = {}
    for process in started:
        out, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, out[-500:]
        found.update({case["case"]: (case["outcome"], case["text"]) for case in map(json.loads, out.splitlines())})
    return found


def passed(found: dict[str, tuple[str, str]]) -> set[str]:
    return {case for case, (outcome, _) in found.items() if outcome == "pass"}


def test_every_case_of_the_onnx_suite_that_onnxruntime_passes_passes_on_ideal_and_compiles_for_pcm(
    record_property: Callable[[str, object], None],
) -> None:
    theirs, ours, noisy = run_suite("onnxruntime"), run_suite("ideal"), run_suite("pcm-generic")
    assert set(ours) == set(theirs) == set(noisy)
    assert len(theirs) > 1000
    record_property(
        "told",
        f"ONNX backend suite, {len(theirs)} CPU cases: onnxruntime passes {len(passed(theirs))}, "
        f"hyle on ideal {len(passed(ours))}, on pcm-generic {len(passed(noisy))}",
    )
    missing = {case: ours[case] for case in sorted(passed(theirs) - passed(ours))}
    assert not missing
    assert not {case: told for case, told in ours.items() if told[0] == "error" and not of_the_suite(told[1])}
    compiled = {case: told for case, told in noisy.items() if told[0] in ("pass", "differs")}
    assert not {case: noisy[case] for case in sorted(passed(theirs) - set(compiled))}


def of_the_suite(text: str) -> bool:
    """Errors that the suite's own comparison raises, not a backend: types that NumPy does not compare."""
    return text.startswith(("TypeError: Unable to compare", "FileNotFoundError: Unable to find model"))


def small_model(weight: np.ndarray, opset: int = 17) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
def test_a_constant_matrix_goes_on_physics_whatever_the_opset(opset: int) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((5, 4)).astype(np.float32)
    rep = HyleBackend.prepare(small_model(weight, opset))
    x = rng.standard_normal((6, 5)).astype(np.float32)
    (got,) = rep.run([x])
    # Two float32 sums of five products differ by at most 2 · 5 roundings of the largest partial sum.
    bound = 10 * np.finfo(np.float32).eps * float((np.abs(x) @ np.abs(weight)).max())
    np.testing.assert_allclose(got, x @ weight, rtol=0, atol=bound)
    assert len(rep.layers) == 1


def test_a_broken_model_is_refused_with_a_remedy() -> None:
    model = small_model(np.ones((2, 2), dtype=np.float32))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(HyleError) as caught:
        HyleBackend.run_model(model, [np.ones((1, 2), dtype=np.float32)])
    assert caught.value.remedy


def test_inputs_that_do_not_fit_are_refused_with_a_remedy() -> None:
    rep = HyleBackend.prepare(small_model(np.ones((2, 2), dtype=np.float32)))
    with pytest.raises(HyleError) as caught:
        rep.run([np.ones((1, 3), dtype=np.float32)])
    assert caught.value.remedy
