"""Inputs of any unit: volts, or atoms a cubic metre, compile alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.host import BlockTiles, HostLayer, compensate
from hyle_substrates.profile import find_profile
from onnx import numpy_helper, parser

Array = np.ndarray[Any, Any]
TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,40] x) => (float[N,5] y) {
  a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w2) }"""


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def report(folder: Path, scale: float, target: str, stream: bool | None) -> dict[str, Any]:
    model = parser.parse_model(TEXT)
    weights = {"w1": drawn(40, 30, seed=1), "w2": drawn(30, 5, seed=2)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, str(folder / "m.onnx"))
    np.savez(folder / "c.npz", x=drawn(256, 40) * np.float32(scale))
    profile, text = find_profile(target)
    options = Options(instances=3, stream=stream)
    return compile_model(folder / "m.onnx", folder / "c.npz", profile, text, folder / "o.hyle", options).report


@pytest.mark.parametrize("target", ["pcm-generic", "mrr-16"])
@pytest.mark.parametrize("stream", [None, True])
def test_the_unit_of_the_inputs_changes_no_choice_and_no_accuracy(
    target: str, stream: bool | None, tmp_path: Path
) -> None:
    """Read noise is another one in each of the three: 256 answers of three instances agree to a few points."""
    plain, *others = (report(tmp_path, scale, target, stream) for scale in (1.0, 1e25, 1e30, 1e-22))
    for other in others:
        for one, same in zip(plain["layers"], other["layers"], strict=True):
            assert (same["copies"], same["range"]) == (one["copies"], one["range"])
            assert same["converter_error"] == pytest.approx(one["converter_error"], rel=0.02)
        for one, same in zip(plain["calibration"]["ages"], other["calibration"]["ages"], strict=True):
            assert same["mean"] == pytest.approx(one["mean"], abs=0.15 if stream else 0.05)
            assert same["residual"] == pytest.approx(one["residual"], rel=0.3)


@pytest.mark.parametrize("scale", [2.0**100, 2.0**-90])
def test_a_correction_by_least_squares_knows_no_unit(scale: float) -> None:
    """Scaled by powers of two nothing rounds elsewhere."""
    codes, gain = [drawn(64, 3, seed=5) * 100, drawn(64, 3, seed=6) * 100], np.full((2, 3), 0.01, np.float32)
    wanted = 0.8 * (codes[0] + codes[1]) * np.float32(0.01) + 0.3 + 0.01 * drawn(64, 3, seed=7)
    layer = HostLayer((BlockTiles(0, 2, (0,)), BlockTiles(2, 4, (1,))), False, 1.0, gain, np.zeros(3, np.float32), None)

    def fitted(unit: float) -> Any:
        scales = np.full(64, unit, np.float32)
        return compensate(
            "affine", layer, now=codes, scales=scales, wanted=wanted.astype(np.float32) * np.float32(unit)
        )

    plain, scaled = fitted(1.0), fitted(scale)
    assert np.array_equal(scaled.gain, plain.gain)
    assert np.allclose(scaled.offset / np.float32(scale), plain.offset, rtol=1e-6)
    assert plain.offset == pytest.approx(0.3, abs=0.05)
