"""Counts and times of one model since the agent started; fixed memory, no tensor."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
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

    def add(self, seconds: Sequence[float], times: int = 1) -> None:
        """Count latencies, in seconds, each `times` times; what lies outside the range counts at its end."""
        counts = self._counts
        for one in seconds:
            bucket = int(_PER_OCTAVE * math.log2(one / _FLOOR_S)) if one > _FLOOR_S else 0
            counts[bucket if bucket < _BUCKETS else _BUCKETS - 1] += times
        self.count += len(seconds) * times
        self.total_s += sum(seconds) * times

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

    def answered(self, arrived: Sequence[float], began: float, ended: float, *, samples: int, energy_j: float) -> None:
        """Count the answers of one batch, which wait no longer.

        Args:
            arrived: When each request came, seconds of one clock.
            began: When the device began with them.
            ended: When it had done.
            samples: Samples in the batch.
            energy_j: Their estimated energy, joules.
        """
        with self._lock:
            self.requests += len(arrived)
            self.waiting -= len(arrived)
            self.last_request_s = time.time()
            self.latency.add([ended - one for one in arrived])
            self.waited.add([began - one for one in arrived])
            self.computed.add([(ended - began) / len(arrived)], len(arrived))
            self.samples += samples
            self.energy_j += energy_j

    def failed(self, latency_s: float, *, waited: bool = False, broken: bool = False) -> None:
        """Count one request that got no answer.

        Args:
            latency_s: From arrival to refusal, seconds.
            waited: It is one that had `entered`.
            broken: That is the program's fault and nobody else's.
        """
        with self._lock:
            self.requests += 1
            self.waiting -= waited
            self.last_request_s = time.time()
            self.errors += 1
            self.broken += broken
            self.failed_s += latency_s
