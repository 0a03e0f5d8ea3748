"""Converters: laws of codes and values, and of the noise between them."""

from __future__ import annotations

import numpy as np
from hyle_substrates import io
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

values = arrays(np.float32, (5, 7), elements=st.floats(-100, 100, width=32))
scales = st.floats(0.015625, 64, width=32)
levels = st.integers(1, 2**15 - 1)


@given(values, scales, levels)
def test_codes_are_integers_in_range(x: np.ndarray, full_scale: float, most: int) -> None:
    codes = io.encode(x, np.float32(full_scale), most)
    assert np.array_equal(codes, np.round(codes))
    assert np.abs(codes).max() <= most


@given(values, scales, levels)
def test_decoding_an_encoded_value_is_within_half_a_step(x: np.ndarray, full_scale: float, most: int) -> None:
    """Half a step of full_scale/levels where nothing clips; float32 adds 2^-22 of the full scale."""
    back = io.decode(io.encode(x, np.float32(full_scale), most), np.float32(full_scale / most))
    assert np.abs(back - np.clip(x, -full_scale, full_scale)).max() <= full_scale * (0.5 / most + 2.0**-22)


@given(values, scales, levels)
def test_encoding_is_odd_and_keeps_order(x: np.ndarray, full_scale: float, most: int) -> None:
    codes = io.encode(x, np.float32(full_scale), most)
    assert np.array_equal(io.encode(-x, np.float32(full_scale), most), -codes)
    order = np.argsort(x, axis=None)
    assert np.all(np.diff(codes.reshape(-1)[order]) >= 0)


@given(values, scales)
def test_a_continuous_converter_only_scales(x: np.ndarray, full_scale: float) -> None:
    assert np.allclose(io.encode(x, np.float32(full_scale), 0) * np.float32(full_scale), x, rtol=1e-6, atol=1e-6)
    assert io.readout(x, None, 0.0, 0) is x


@given(values, levels)
def test_readout_is_idempotent_and_in_range(x: np.ndarray, most: int) -> None:
    codes = io.readout(x, None, 0.0, most)
    assert np.abs(codes).max() <= most
    assert np.array_equal(io.readout(codes, None, 0.0, most), codes)


@given(values)
def test_sides_are_not_negative_and_differ_by_the_codes(x: np.ndarray) -> None:
    codes = np.round(x)
    plus, minus = io.sides(codes, "two-pass")
    assert plus.min() >= 0
    assert minus.min() >= 0
    assert np.array_equal(plus - minus, codes)
    assert np.array_equal(io.sides(codes, "positive")[0], np.maximum(codes, 0))
    assert io.sides(codes, "signed")[0] is codes


@given(values)
def test_kinds_of_noise_add_in_power(x: np.ndarray) -> None:
    power, light = x * x, np.abs(x)
    found = io.noise_std(power, light, 2.0, 0.5, 0.25)
    assert np.allclose(found**2, 4.0 + 0.25 * power + 0.25 * light, rtol=1e-5)
