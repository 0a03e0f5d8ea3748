"""Ridge regression over one decomposition of the features for a whole path of penalties."""

from __future__ import annotations

import numpy as np

from hyle_compiler.fitting.twin import Floats

__all__ = ["PENALTIES", "ridge"]

PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-10, 2.0))
"""Share of the mean eigenvalue of the features' Gram matrix that is added to each."""


def ridge(
    train: tuple[Floats, Floats], validation: tuple[Floats, Floats], *, apart: bool = False
) -> tuple[Floats, Floats, Floats]:
    """Fit with the penalty that predicts the validation samples best.

    Args:
        train: Features and readings, samples first.
        validation: The same, of other samples.
        apart: Whether each output has a penalty of its own; for outputs that are compared with each other, as scores
            are, one for all is better.

    Returns:
        Matrix (features by outputs), offset (outputs), and each output's mean squared error on the validation samples.
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

    tried = np.stack([solved(p) for p in PENALTIES])
    errors = np.mean((valid_x @ tried - valid_y) ** 2, axis=1)
    all_outputs = np.arange(y.shape[1])
    best = np.argmin(errors, axis=0) if apart else np.full(len(all_outputs), np.argmin(errors.mean(axis=1)))
    matrix = (vt.T @ tried[best, :, all_outputs].T) / scale[:, None]
    return matrix, mean_y - mean_x @ matrix, errors[best, all_outputs]
