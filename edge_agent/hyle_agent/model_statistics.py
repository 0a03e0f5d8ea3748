"""Counts and times of one model since the agent started; fixed memory, no tensor."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["Executions", "Histogram", "ModelStatistics"]

_FLOOR_S = 1e-6
_PER_OCTAVE = 8
_BUCKETS = 27 * _PER_OCTAVE
_SIZES = 256


class Histogram:
    """Latencies in logarithmic buckets from 1 µs to about 134 s, eight an octave.

    A quantile is the geometric middle of its bucket: within 2^(1/16) - 1 = 4.4 % of the true value.
    """

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: Sequence[float]) -> None:
        """Count latencies, in seconds; what lies outside the range counts at its end."""
        counts = self._counts
        for one in seconds:
            bucket = int(_PER_OCTAVE * math.log2(one / _FLOOR_S)) if one > _FLOOR_S else 0
            counts[bucket if bucket < _BUCKETS else _BUCKETS - 1] += 1
        self.count += len(seconds)
        self.total_s += sum(seconds)

    def quantile(self, fraction: float) -> float:
        """Return the latency in seconds that `fraction` of all did not exceed, NaN before the first."""
        if not self.count:
            return math.nan
        wanted = max(1, math.ceil(fraction * self.count))
        reached = enumerate(accumulate(self._counts))
        bucket = next(bucket for bucket, seen in reached if seen >= wanted)
        return float(_FLOOR_S * 2 ** ((bucket + 0.5) / _PER_OCTAVE))


@dataclass(slots=True)
class Executions:
    """Executions of batches of one size, and the time they took together."""

    count: int = 0
    total_s: float = 0.0


class ModelStatistics:
    """One model's aggregates; any thread may call any method.

    Attributes:
        waited_s: Time that all answered requests together waited for the device.
        computed_s: Time that all answered requests together were on it; each counts the whole of its batch's.
        executions: Batches that were run.
        batches: The same by the samples in a batch; of the first 256 sizes.
    """

    def __init__(self) -> None:
        self.latency = Histogram()
        self.waited_s = self.computed_s = 0.0
        self.executions = 0
        self.batches: dict[int, Executions] = {}
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
        requests, took_s = len(arrived), ended - began
        with self._lock:
            self.requests += requests
            self.waiting -= requests
            self.last_request_s = time.time()
            self.latency.add([ended - one for one in arrived])
            self.waited_s += sum([began - one for one in arrived])
            self.computed_s += requests * took_s
            self.samples += samples
            self.energy_j += energy_j
            self.executions += 1
            alike = self.batches.get(samples)
            if alike is None and len(self.batches) < _SIZES:
                alike = self.batches[samples] = Executions()
            if alike is not None:
                alike.count += 1
                alike.total_s += took_s

    def sizes(self) -> list[tuple[int, int, float]]:
        """Return batch sizes in samples, how many batches had each, and the seconds they took together."""
        with self._lock:
            return [(samples, alike.count, alike.total_s) for samples, alike in sorted(self.batches.items())]

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
