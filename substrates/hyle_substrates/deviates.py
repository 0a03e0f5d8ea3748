"""A table of normal deviates, for graphs that read noise instead of drawing it.

Drawing a normal deviate costs more than the multiply-accumulates of a small layer. The graphs of a twin therefore read
runs of `RUN` deviates at random places of a table. Each of a run's positions holds the same quantiles in its own order,
so that whatever is read at one position has exactly mean 0 and variance 1 over the table.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from hyle_substrates.draws import inverse_normal

__all__ = ["RUN", "RUNS", "deviates"]

RUN = 128
RUNS = 4096
SEED = 0x6879_6C65


@lru_cache(maxsize=1)
def deviates() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the table: `RUNS` by `RUN`, read-only, the same on every machine.

    A position's values are the normal quantiles of (i + 1/2) / `RUNS`, scaled to unit variance; they end at 3.67. Two
    positions of a run correlate by about 1 / sqrt(`RUNS`), 0.016; two runs are independent draws.
    """
    quantiles = inverse_normal((np.arange(RUNS) + 0.5) / RUNS)
    quantiles /= np.sqrt(np.mean(quantiles**2))
    order = np.random.Philox(key=[SEED, 0]).random_raw(RUNS * RUN).reshape(RUN, RUNS).argsort(axis=1)
    table = np.ascontiguousarray(quantiles.astype(np.float32)[order].T)
    table.flags.writeable = False
    return table
