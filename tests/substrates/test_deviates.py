from __future__ import annotations

import numpy as np
from hyle_substrates.deviates import RUN, RUNS, deviates


def test_every_position_has_mean_zero_and_variance_one() -> None:
    table = deviates().astype(np.float64)
    assert table.shape == (RUNS, RUN)
    # float32 holds a quantile to 2^-24 of itself, at most 3.67.
    assert np.abs(table.mean(axis=0)).max() < 4 * 2.0**-24
    assert np.abs((table**2).mean(axis=0) - 1.0).max() < 16 * 2.0**-24


def test_the_quantiles_are_those_of_a_normal_distribution() -> None:
    values = np.sort(deviates()[:, 0].astype(np.float64))
    # Shares below whole sigmas, from tables; a step of the empirical distribution is 1 / RUNS.
    for sigma, share in (
        (-2.0, 0.0227501319),
        (-1.0, 0.1586552539),
        (0.0, 0.5),
        (1.0, 0.8413447461),
        (3.0, 0.9986501020),
    ):
        assert abs(np.searchsorted(values, sigma) / RUNS - share) <= 2 / RUNS


def test_positions_are_independent_of_each_other() -> None:
    table = deviates().astype(np.float64)
    correlations = (table.T @ table / RUNS)[np.triu_indices(RUN, 1)]
    # Of 8,128 correlations of standard deviation 1 / sqrt(RUNS), five and a half of these are exceeded with 3e-4.
    assert np.abs(correlations).max() < 5.5 / np.sqrt(RUNS)
    lagged = [float(np.mean(table[:-lag] * table[lag:])) for lag in (1, 2, 3, 7)]
    assert np.abs(lagged).max() < 5.0 / np.sqrt(RUNS * RUN)
