"""What a model's statistics say of batches, in the meaning that Triton's clients know."""

from __future__ import annotations

import pytest
from hyle_agent.model_statistics import ModelStatistics


def test_requests_of_one_batch_are_one_execution_and_each_waited_and_computed_for_itself() -> None:
    statistics = ModelStatistics()
    statistics.answered([1.0, 1.5, 2.0], 2.0, 2.25, samples=5, energy_j=1e-6)
    statistics.answered([3.0], 3.0, 3.5, samples=1, energy_j=1e-6)
    assert (statistics.requests, statistics.samples, statistics.executions) == (4, 6, 2)
    assert statistics.waited_s == pytest.approx(1.0 + 0.5)
    assert statistics.computed_s == pytest.approx(3 * 0.25 + 0.5)
    assert statistics.latency.total_s == pytest.approx(statistics.waited_s + statistics.computed_s)
    assert statistics.sizes() == [(1, 1, 0.5), (5, 1, 0.25)]


def test_sizes_without_end_take_memory_with_one() -> None:
    statistics = ModelStatistics()
    for samples in range(1, 2001):
        statistics.answered([0.0], 0.0, 1.0, samples=samples, energy_j=0.0)
    assert statistics.executions == 2000
    assert len(statistics.sizes()) == 256
