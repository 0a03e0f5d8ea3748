"""What drives a layer in the streamed compilation: vectors of the float model, or DAC codes of a twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_substrates import io
from hyle_substrates.host import Geometry, patches, sample_scale
from hyle_substrates.profile import Profile

__all__ = ["Feed", "encoded_feeds", "float_feeds"]

Array = np.ndarray[Any, Any]
Float32s = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Vectors that are driven together.

    `values` are vectors by rows, or for a convolution batch, channels, spatial; `scales` each vector's full scale.
    """

    values: Float32s
    scales: Float32s
    geometry: Geometry | None

    @property
    def vectors(self) -> int:
        """How many vectors there are."""
        return len(self.scales)

    def part(self, start: int, stop: int) -> Float32s:
        """What drives some of the layer's rows, vectors by these rows."""
        if self.geometry is None:
            return np.ascontiguousarray(self.values[:, start:stop])
        taps = int(np.prod(self.geometry.kernel))
        first, last = start // taps, -(-stop // taps)
        rows = patches(self.values[:, first:last], self.geometry)
        return np.ascontiguousarray(rows[:, start - first * taps : stop - first * taps])


def float_feeds(xs: Sequence[Float32s], geometry: Geometry | None) -> list[Feed]:
    """The float model's vectors: all in one feed, or for a convolution one feed a sample."""
    if geometry is None:
        rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in xs])
        return [Feed(rows, np.ones(len(rows), dtype=np.float32), None)]
    return [
        Feed(x[i : i + 1], np.ones(int(np.prod(geometry.output_shape(x.shape[2:]))), dtype=np.float32), geometry)
        for x in xs
        for i in range(len(x))
    ]


def encoded_feeds(
    xs: Sequence[Float32s], geometry: Geometry | None, profile: Profile, *, dynamic: bool, full_scale: float
) -> list[Feed]:
    """The same of twins: codes as the layer's converters give them."""
    feeds = []
    for plain in float_feeds(xs, geometry):
        bound = sample_scale(plain.values, geometry) if dynamic else np.full((), full_scale, dtype=np.float32)
        codes = io.encode(plain.values, bound, profile.dac.levels).astype(np.float32)
        feeds.append(Feed(codes, np.broadcast_to(bound.reshape(-1), plain.scales.shape).astype(np.float32), geometry))
    return feeds
