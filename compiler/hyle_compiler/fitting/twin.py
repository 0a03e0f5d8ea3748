"""The fitted twin: features of parameters and inputs, times one matrix. All of it is differentiable.

The features are the values themselves, their powers (matter without memory before a linear one), products of pairs
(a second-order Volterra series) and tanh of random or trained projections. Sources: Rahimi & Recht, NIPS 2007 (random
features); Schetzen, The Volterra and Wiener Theories of Nonlinear Systems, 1980.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Features", "Floats", "Twin"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a twin makes of its values, which run from -1 to 1 here.

    Attributes:
        powers: Whether squares, cubes and magnitudes are among them.
        pairs: Indices of the factors of each product, two by products; or None.
        projection: Values by hidden units of tanh, or None.
        shift: What is added to each projection.
    """

    powers: bool = False
    pairs: Indices | None = None
    projection: Floats | None = None
    shift: Floats | None = None

    def expand(self, u: Floats) -> Floats:
        """Return the features, samples by features."""
        parts = [u]
        if self.powers:
            parts += [u * u, u * u * u, np.abs(u)]
        if self.pairs is not None:
            parts.append(u[:, self.pairs[0]] * u[:, self.pairs[1]])
        if self.projection is not None and self.shift is not None:
            parts.append(np.tanh(u @ self.projection + self.shift))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Twin:
    """A fitted twin.

    Attributes:
        family: Its name.
        features: What is multiplied.
        matrix: Features by outputs.
        offset: One number an output.
        low: Value that becomes -1.
        high: Value that becomes 1.
    """

    family: str
    features: Features
    matrix: Floats
    offset: Floats
    low: float
    high: float

    def normal(self, values: Floats) -> Floats:
        """Return values of the device's range, cut to it, on [-1, 1]."""
        cut = np.clip(values, self.low, self.high)
        return (cut - self.low) * (2.0 / (self.high - self.low)) - 1.0

    def predict(self, values: Floats) -> Floats:
        """Return readings, samples by outputs, for parameters and inputs side by side."""
        return self.features.expand(self.normal(values)) @ self.matrix + self.offset
