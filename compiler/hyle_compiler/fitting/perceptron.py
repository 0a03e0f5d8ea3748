"""A perceptron with one hidden layer and a linear bypass, trained by Adam; its last layer is solved again by ridge."""

from __future__ import annotations

import numpy as np

from hyle_compiler.fitting.twin import Features, Floats

__all__ = ["train_projection"]

STEPS = 2000
BATCH = 128
RATE = 3e-3
MOST_OUTPUTS = 64
"""Readings beyond this many are mixed into as many random combinations while the hidden layer learns."""


def train_projection(u: Floats, readings: Floats, rng: np.random.Generator, hidden: int = 128) -> Features:
    """Train the hidden layer.

    Args:
        u: Values on [-1, 1], samples by values.
        readings: Samples by outputs, of unit variance.
        rng: Draws the first weights and the batches.
        hidden: Units of tanh.

    Returns:
        Features whose projection was trained.
    """
    wanted = readings - readings.mean(axis=0)
    if wanted.shape[1] > MOST_OUTPUTS:
        wanted = wanted @ rng.standard_normal((wanted.shape[1], MOST_OUTPUTS)) / np.sqrt(wanted.shape[1])
    size, outputs = u.shape[1], wanted.shape[1]
    weights = [
        rng.standard_normal((size, hidden)) / np.sqrt(size) * 1.5,
        rng.uniform(-1.0, 1.0, hidden),
        np.zeros((hidden, outputs)),
        np.linalg.lstsq(u, wanted, rcond=None)[0],
    ]
    first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for step in range(1, STEPS + 1):
        picks = rng.integers(0, len(u), min(BATCH, len(u)))
        gradients = _gradients(u[picks], wanted[picks], weights)
        rate = RATE * 0.5 * (1.0 + np.cos(np.pi * step / STEPS))
        for w, g, m, v in zip(weights, gradients, first, second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-9)
    return Features(True, None, weights[0], weights[1])


def _gradients(u: Floats, wanted: Floats, weights: list[Floats]) -> list[Floats]:
    projection, shift, out, bypass = weights
    h = np.tanh(u @ projection + shift)
    wrong = 2.0 * (h @ out + u @ bypass - wanted) / wanted.size
    inner = (wrong @ out.T) * (1.0 - h * h)
    return [u.T @ inner, inner.sum(axis=0), h.T @ wrong, u.T @ wrong]
