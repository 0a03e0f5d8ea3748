"""Counts and times of one model since the agent started; fixed memory, no tensor."""

from __future__ import annotations

import math
import threading
import time
from itertools import accumulate

__all__ = ["Histogram", "ModelStatistics"]

_FLOOR_S = 1e-6
_PER_OCTAVE = 8
_BUCKETS = 27 * _PER_OCTAVE


class Histogram:
    """Latencies in logarithmic buckets from 1 µs to about 134 s, eight an octave.

    A quantile is the geometric middle of its bucket: within 2^(1/16) - 1 = 4.4 % of the true value.
    """

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency, in seconds; what lies outside the range counts at its end."""
        octave = math.log2(max(seconds, _FLOOR_S) / _FLOOR_S)
        self._counts[min(int(octave * _PER_OCTAVE), _BUCKETS - 1)] += 1
        self.count += 1
        self.total_s += seconds

    def quantile(self, fraction: float) -> float:
        """Return the latency in seconds that `fraction` of all did not exceed, NaN before the first."""
        if not self.count:
            return math.nan
        wanted = max(1, math.ceil(fraction * self.count))
        reached = enumerate(accumulate(self._counts))
        bucket = next(bucket for bucket, seen in reached if seen >= wanted)
        return float(_FLOOR_S * 2 ** ((bucket + 0.5) / _PER_OCTAVE))


class ModelStatistics:
    """One model's aggregates; any thread may call any method."""

    def __init__(self) -> None:
        self.latency = Histogram()
        self.waited = Histogram()
        self.computed = Histogram()
        self.requests = 0
        self.errors = 0
        self.broken = 0
        self.samples = 0
        self.energy_j = 0.0
        self.waiting = 0
        self.failed_s = 0.0
        self.last_request_s = 0.0
        self._lock = threading.Lock()

    def entered(self) -> None:
        """Count one request that waits for the device or is on it."""
        with self._lock:
            self.waiting += 1

    def left(self) -> None:
        """Count it no longer."""
        with self._lock:
            self.waiting -= 1

    def answered(self, *, latency_s: float, waited_s: float, computed_s: float, samples: int, energy_j: float) -> None:
        """Count one answer.

        Args:
            latency_s: From arrival to answer, seconds.
            waited_s: The part of it spent waiting for the device.
            computed_s: The part of it spent on the device.
            samples: Samples in the batch.
            energy_j: Their estimated energy, joules.
        """
        with self._lock:
            self._seen()
            self.latency.add(latency_s)
            self.waited.add(waited_s)
            self.computed.add(computed_s)
            self.samples += samples
            self.energy_j += energy_j

    def failed(self, latency_s: float, *, broken: bool = False) -> None:
        """Count one request that got no answer; `broken` if that is the program's fault and nobody else's."""
        with self._lock:
            self._seen()
            self.errors += 1
            self.broken += broken
            self.failed_s += latency_s

    def _seen(self) -> None:
        self.requests += 1
        self.last_request_s = time.time()
