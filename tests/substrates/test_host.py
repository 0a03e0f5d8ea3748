"""The host's half: patches as a convolution sees them, and corrections that do what they say."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hyle_substrates.host import (
    BlockTiles,
    Compensation,
    Geometry,
    HostLayer,
    compensate,
    patches,
    patches_at,
    unit_answers,
    unit_probe,
)
from hyle_substrates.profile import load_profile
from hyle_substrates.twin import TwinDriver
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper


def convolution(x: np.ndarray, w: np.ndarray, geometry: Geometry) -> np.ndarray:
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        kernel_shape=list(geometry.kernel),
        strides=list(geometry.strides),
        pads=list(geometry.pads),
        dilations=list(geometry.dilations),
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, x.shape), value("w", TensorProto.FLOAT, w.shape)],
        [value("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x, "w": w})[0]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_patches_times_a_matrix_are_onnxruntimes_convolution(data: st.DataObject) -> None:
    """float32 sums of at most 3·27 products of magnitude about 1: 1e-4 is far above their rounding."""
    n = data.draw(st.integers(1, 3))
    one = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(n))  # noqa: E731
    geometry = Geometry(one(1, 3), one(1, 2), one(0, 2) + one(0, 2), one(1, 2))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    channels, columns = data.draw(st.integers(1, 3)), 2
    x = random.standard_normal((2, channels, *([7] * n)), dtype=np.float32)
    w = random.standard_normal((columns, channels, *geometry.kernel), dtype=np.float32)
    rows = patches(x, geometry)
    out = geometry.output_shape(x.shape[2:])
    found = np.moveaxis((rows @ w.reshape(columns, -1).T).reshape(2, *out, columns), -1, 1)
    assert np.allclose(found, convolution(x, w, geometry), atol=1e-4)
    picks = random.integers(0, len(rows), 5)
    assert np.array_equal(patches_at(x, geometry, picks), rows[picks])


def layer(blocks: int, cols: int) -> HostLayer:
    tiles = tuple(BlockTiles(4 * i, 4 * i + 4, (i,)) for i in range(blocks))
    gain = np.full((blocks, cols), 0.5, dtype=np.float32)
    return HostLayer(tiles, False, 1.0, gain, np.zeros(cols, dtype=np.float32), None)


@given(st.floats(0.0625, 4.0, width=32))
def test_global_and_column_compensation_undo_a_common_decay(decay: float) -> None:
    random = np.random.default_rng(1)
    exact = [random.standard_normal((4, 3), dtype=np.float32) for _ in range(2)]
    now = [probe * np.float32(decay) for probe in exact]
    for mode in ("global", "column"):
        found = compensate(mode, layer(2, 3), exact=exact, now=now)  # type: ignore[arg-type]
        assert np.allclose(found.gain, 0.5 / decay, rtol=1e-5)
        assert not found.offset.any()


def test_noise_of_the_probes_does_not_bias_the_gain() -> None:
    """Weak answers under noise three times as large: the ratio of mean magnitudes would be a third of the true one.

    The gain's standard error is 0.5 · 3 / sqrt(rows · columns) = 0.0024; a normal deviate beyond five of them is rarer
    than one in a million.
    """
    random = np.random.default_rng(4)
    exact = [random.standard_normal((1000, 400), dtype=np.float32)]
    now = [exact[0] + 3.0 * random.standard_normal((1000, 400), dtype=np.float32)]
    assert np.abs(compensate("global", layer(1, 400), exact=exact, now=now).gain - 0.5).max() < 5 * 0.0024


def test_perfect_matter_answers_unit_probes_with_its_targets() -> None:
    profile = load_profile("pcm-generic")
    levels = np.random.default_rng(5).integers(-profile.weights.levels, profile.weights.levels + 1, (6, 5))
    driver = TwinDriver(profile, exact=True, noiseless=True)
    driver.program(0, np.tile(levels, (2, 3)).astype(np.int32))
    block = BlockTiles(0, 6, (0,), row_copies=2, col_copies=3)
    said = unit_probe(driver, [block], profile.dac.levels)[0]
    # The ADC rounds to whole codes.
    assert np.abs(unit_answers(profile, block, levels) - said).max() <= 0.5 + 1e-4


def test_column_compensation_undoes_what_differs_by_column() -> None:
    random = np.random.default_rng(2)
    exact = [random.standard_normal((4, 3), dtype=np.float32)]
    decay = np.array([0.5, 0.9, 1.1], dtype=np.float32)
    found = compensate("column", layer(1, 3), exact=exact, now=[exact[0] * decay])
    assert np.allclose(found.gain, 0.5 / decay, rtol=1e-5)


def test_a_dead_column_keeps_its_gain() -> None:
    exact, now = [np.ones((4, 2), dtype=np.float32)], [np.array([[1.0, 0.0]] * 4, dtype=np.float32)]
    assert np.array_equal(compensate("column", layer(1, 2), exact=exact, now=now).gain, [[0.5, 0.5]])


def affine(parts: list[np.ndarray[Any, Any]], wanted: np.ndarray[Any, Any]) -> Compensation:
    scales = np.ones(len(wanted), dtype=np.float32)
    return compensate("affine", layer(len(parts), wanted.shape[1]), now=parts, scales=scales, wanted=wanted)


def test_affine_compensation_finds_gains_and_offsets_of_blocks() -> None:
    """Without noise the prior's weight falls to that of what one common gain leaves of true gains of 0.9 and 1.2."""
    random = np.random.default_rng(3)
    now = [random.standard_normal((200, 3)).astype(np.float32) for _ in range(2)]
    wanted = 0.5 * (0.9 * now[0] + 1.2 * now[1]) + np.array([1.0, -2.0, 0.0], dtype=np.float32)
    found = affine(now, wanted)
    after = sum(gain * probe for gain, probe in zip(found.gain, now, strict=True)) + found.offset
    assert np.sqrt(np.mean((after - wanted) ** 2)) < 0.01 * np.sqrt(np.mean((0.5 * (now[0] + now[1]) - wanted) ** 2))
    assert np.allclose(found.offset, [1.0, -2.0, 0.0], atol=0.01)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("left", [1.0, 0.3, 0.05])
def test_affine_compensation_wins_back_a_gain_however_much_of_it_is_lost(left: float, blocks: int) -> None:
    """As far as least squares can: noise of a fifth of the faded signal takes 1/26 of its gain.

    A gain that is fitted to 400 vectors has a standard error of 0.2 / sqrt(400); five of them are allowed.
    """
    random = np.random.default_rng(4)
    signal = [random.standard_normal((400, 8)) + 2.0 for _ in range(blocks)]
    read = [(left * (x + 0.2 * random.standard_normal(x.shape))).astype(np.float32) for x in signal]
    wanted = np.asarray(0.5 * sum(signal), dtype=np.float32)
    found = affine(read, wanted)
    assert np.abs(found.gain * left / 0.5 - 25 / 26).max() < 5 * 0.01
    assert np.abs(found.offset - blocks * 2.0 * 0.5 / 26).max() < 5 * 0.01 * 2.3 * blocks


def test_affine_compensation_leaves_the_gain_where_nothing_is_said_of_it() -> None:
    """Columns that are dead, and answers to few vectors or without any bearing, keep their gain; the offset helps."""
    random = np.random.default_rng(5)
    wanted = (1.0 + random.standard_normal((300, 4))).astype(np.float32)
    dead = affine([np.full((300, 4), 3.0, dtype=np.float32)], wanted)
    assert np.allclose(dead.gain, 0.5)
    assert np.allclose(dead.offset, wanted.mean(axis=0) - 1.5, atol=1e-4)
    one = affine([np.ones((1, 4), dtype=np.float32)], wanted[:1])
    assert np.allclose(one.gain, 0.5, rtol=0.1)
    assert np.allclose(one.gain[0] + one.offset, wanted[0], atol=1e-4)


def test_affine_compensation_needs_its_measurements() -> None:
    with pytest.raises(ValueError, match="affine"):
        compensate("affine", layer(1, 1))


def test_no_compensation_changes_nothing() -> None:
    found = compensate("none", layer(2, 3))
    assert np.array_equal(found.gain, layer(2, 3).gain)


def test_output_shapes_follow_the_formula_of_onnx() -> None:
    for size, pad, kernel, stride in itertools.product((5, 8), (0, 1), (1, 3), (1, 2)):
        geometry = Geometry((kernel,), (stride,), (pad, pad), (1,))
        assert geometry.output_shape((size,)) == ((size + 2 * pad - kernel) // stride + 1,)
