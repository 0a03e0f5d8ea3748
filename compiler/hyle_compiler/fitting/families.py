"""Kinds of twin that are tried on a device; the one that predicts unseen samples best is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hyle_compiler.fitting.perceptron import train_projection
from hyle_compiler.fitting.ridge import ridge
from hyle_compiler.fitting.twin import Features, Floats, Twin

__all__ = ["Range", "choose"]

MOST_PAIRS = 2000
BANDWIDTHS = (0.5, 1.0, 2.0)
GAIN = 0.98
"""Share of the best errors so far that a further family's must stay below: the simpler one is kept in a draw."""
ENOUGH = 1.5
"""Squared errors this many times the device's own noise are not improved upon."""
EXACT = 1e-12
"""Share of a reading's variance below which an error is none."""


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest value of a device."""

    low: float
    high: float


def choose(
    train: tuple[Floats, Floats],
    validation: tuple[Floats, Floats],
    span: Range,
    noise: Floats,
    seed: int,
    progress: Callable[[str], None],
) -> Twin:
    """Fit one family after the other, the simplest first, until the device itself is no more exact; keep the best.

    Args:
        train: Values (parameters and inputs side by side) and readings, samples first.
        validation: The same, of other samples.
        span: The device's range.
        noise: Variance of each output from one reading to the next, which no twin can go below.
        seed: Seed of what is drawn.
        progress: Told which family is being fitted.

    Returns:
        The best twin.
    """
    empty = Twin("", Features(), np.zeros((0, 0)), np.zeros(0), span.low, span.high)
    u, v = empty.normal(train[0]), empty.normal(validation[0])
    scale = train[1].std(axis=0)
    scale[scale == 0.0] = 1.0
    best, least, floor = empty, np.full(len(scale), np.inf), noise / scale**2 + EXACT
    told = np.sqrt(np.clip(1.0 - noise / scale**2, 0.0, 1.0))
    for name, features in _families(u, told * train[1] / scale, seed):
        progress(f"fitting: {name}")
        wanted = (features.expand(u), train[1] / scale), (features.expand(v), validation[1] / scale)
        matrix, offset, found = ridge(*wanted, apart=True)
        error = found + EXACT
        # Ratios, so that an output that is all noise hides nothing that the others gain.
        if np.mean(np.log(error) - np.log(least)) < np.log(GAIN):
            best, least = Twin(name, features, matrix * scale, offset * scale, span.low, span.high), error
        if np.mean(least / floor) <= ENOUGH:
            break
    return best


def _families(u: Floats, readings: Floats, seed: int) -> Iterator[tuple[str, Features]]:
    """Yield families for values `u`; what is trained learns an output by the part of it that is no noise."""
    size = u.shape[1]
    yield "linear", Features()
    yield "powers", Features(powers=True)
    pairs = np.stack(np.triu_indices(size, 1))
    if 0 < pairs.shape[1] <= MOST_PAIRS:
        yield "second order", Features(powers=True, pairs=pairs)
    hidden = int(np.clip(len(u), 64, 1024))
    rng = np.random.default_rng([seed, 0x72616E64])
    direction, shift = rng.standard_normal((size, hidden)) / np.sqrt(size), rng.uniform(-2.0, 2.0, hidden)
    for bandwidth in BANDWIDTHS:
        projection = direction * bandwidth * 2.0
        yield f"random features {bandwidth:g}", Features(True, None, projection, shift * bandwidth)
    yield "perceptron", train_projection(u, readings, rng)
