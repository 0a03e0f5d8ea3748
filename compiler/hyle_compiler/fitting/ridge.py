"""Ridge regression over one decomposition of the features for a whole path of penalties."""

from __future__ import annotations

import numpy as np

from hyle_compiler.fitting.twin import Floats

__all__ = ["PENALTIES", "ridge"]

PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-10, 2.0))
"""Share of the mean eigenvalue of the features' Gram matrix that is added to each."""


def ridge(train: tuple[Floats, Floats], validation: tuple[Floats, Floats]) -> tuple[Floats, Floats, float]:
    """Fit with the penalty that predicts the validation samples best.

    Args:
        train: Features and readings, samples first.
        validation: The same, of other samples.

    Returns:
        Matrix (features by outputs), offset (outputs), and the mean squared error on the validation samples.
    """
    features, readings = train
    mean_x, mean_y = features.mean(axis=0), readings.mean(axis=0)
    scale = features.std(axis=0)
    scale[scale == 0.0] = 1.0
    x, y = (features - mean_x) / scale, readings - mean_y
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ y
    valid_x, valid_y = (validation[0] - mean_x) / scale @ vt.T, validation[1] - mean_y
    unit = float(np.mean(s**2)) or 1.0

    def solved(penalty: float) -> Floats:
        answer: Floats = (s / (s**2 + penalty * unit))[:, None] * projected
        return answer

    errors = [float(np.mean((valid_x @ solved(p) - valid_y) ** 2)) for p in PENALTIES]
    best = int(np.argmin(errors))
    matrix = (vt.T @ solved(PENALTIES[best])) / scale[:, None]
    return matrix, mean_y - mean_x @ matrix, errors[best]
