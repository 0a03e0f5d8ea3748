"""A label is no quantity: the self-test holds a device to scores, and where there are labels alone to their share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hyle_bundle import open_bundle
from hyle_bundle.manifest import Manifest
from hyle_compiler.evaluate import AgeResult, Evaluation, tensor_file
from hyle_compiler.pipeline import Options, compile_model
from hyle_compiler.self_test_bound import self_test_bound
from hyle_runtime.body import Body
from hyle_runtime.residual import residual_of
from hyle_substrates.profile import find_profile
from hyle_substrates.twin import TwinDriver
from onnx import numpy_helper, parser

Array = np.ndarray[Any, Any]
HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
LABEL = """g (float[N,16] x) => (int64[N] label) {
  y = MatMul(x, w)  best = ArgMax<axis = 1, keepdims = 0>(y)  label = Add(best, far) }"""
BOTH = LABEL.replace("(int64[N] label)", "(int64[N] label, float[N,6] y)")


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compiled(folder: Path, text: str, stream: bool | None = None) -> tuple[Path, Manifest]:
    """Classes are numbered from a thousand, so that as numbers they hardly differ."""
    model = parser.parse_model(HEAD + text)
    weights = {"w": drawn(16, 6), "far": np.array(1000)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, str(folder / "m.onnx"))
    np.savez(folder / "c.npz", x=drawn(64, 16, seed=1))
    profile, toml = find_profile("pcm-generic")
    options = Options(instances=4, stream=stream)
    compile_model(folder / "m.onnx", folder / "c.npz", profile, toml, folder / "o.hyle", options)
    with open_bundle(folder / "o.hyle") as bundle:
        bundle.extract(folder / "files")
        return folder / "files", bundle.manifest


def body_of(folder: Path, manifest: Manifest, seed: int) -> Body:
    programming, golden = (tensor_file(folder / f"{name}.safetensors") for name in ("programming", "golden"))
    body = Body(folder, manifest, programming, golden, TwinDriver(find_profile("pcm-generic")[0], seed))
    body.program()
    return body


def silenced(body: Body) -> Body:
    """As if every gain had been lost: all classes score alike, and the first one wins."""
    for name, found in body.corrections.items():
        body.corrections[name] = type(found)(found.gain * 0, found.offset * 0)
    body.renew()
    return body


@pytest.mark.parametrize("stream", [None, True])
@pytest.mark.parametrize("text", [LABEL, BOTH])
def test_healthy_devices_pass_and_one_that_says_always_the_same_fails(
    text: str, stream: bool | None, tmp_path: Path
) -> None:
    folder, manifest = compiled(tmp_path, text, stream)
    names = set(tensor_file(folder / "golden.safetensors").names)
    assert ("output/label" in names) == (text == LABEL)
    assert all(body_of(folder, manifest, seed).self_test().passed for seed in range(100, 110))
    broken = silenced(body_of(folder, manifest, 100)).self_test()
    assert not broken.passed
    assert broken.residual > 0.5


def test_labels_beside_scores_do_not_count_and_alone_by_their_share() -> None:
    labels = (np.array([0, 2]), np.array([7, 2]))
    scores = (np.array([[1.5, 2.0]], np.float32), np.array([[1.0, 2.0]], np.float32))
    assert residual_of([labels, scores]) == residual_of([scores]) == pytest.approx(0.5 / 5.0**0.5)
    assert residual_of([labels]) == 0.5
    assert residual_of([(np.array([True, False]), np.array([True, True]))]) == 0.5
    assert residual_of([(np.array(["a"]), np.array(["b"]))]) == 0.0


def test_quantised_answers_are_numbers() -> None:
    codes = (np.array([101, 50], np.uint8), np.array([100, 50], np.uint8))
    assert residual_of([codes]) == pytest.approx(1.0 / 12500.0**0.5)


def shares(rows: Array) -> Evaluation:
    return Evaluation("top-1", 1, tuple(AgeResult(1.0, (1.0,), tuple(row), np.ones(1)) for row in rows.tolist()))


@pytest.mark.parametrize("share", [0.0, 0.004, 0.03, 0.3])
@pytest.mark.parametrize("instances", [1, 4])
def test_a_further_device_with_the_same_share_of_other_labels_passes(share: float, instances: int) -> None:
    """Beyond six deviations of a Poisson count lies one in a thousand at most, where hardly one label is another."""
    random = np.random.default_rng(1)
    failed = 0
    for _ in range(500):
        counts = random.binomial(32, share, (3, instances + 1))
        bound, text = self_test_bound(shares(counts[:, :-1] / 32), labels=32)
        failed += bool(counts[:, -1].max() / 32 > bound)
        assert bound < 1.0
    assert "32 labels" in text
    assert failed <= 5
