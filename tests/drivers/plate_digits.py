"""Digits through a plate of sound: what is driven, and whether the plate helps a linear read-out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hyle_compiler.fitting.ridge import ridge
from hyle_substrates.driver import BlackBox, DeviceError

DIGITS = Path(__file__).parents[1] / "data" / "digits_mlp"
INPUTS = 48
OPTIONS = {
    "device": "pulse",
    "inputs": str(INPUTS),
    "hold": "32",
    "gap": "1024",
    "harmonics": "3",
    "volume": "0.8",
    "timeout_s": "10",
    "retries": "12",
}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Margin:
    """Accuracies without and with the plate, their difference, and its standard error and 95 % interval."""

    without: float
    with_plate: float
    points: float
    error: float
    low: float
    high: float


def digits() -> tuple[Array, Array, Array]:
    """All 719 digits of the test data as 16 standardised features (means of 2 x 2 pixels), labels, and the drive.

    Sixteen features and 500 samples leave a linear read-out room for improvement; the drive is a fixed random mixture
    of the features, cut at 2.5 standard deviations.
    """
    files = [np.load(DIGITS / f"{name}.npz") for name in ("calib", "eval")]
    pixels = np.concatenate([file["input"] for file in files]).astype(np.float64)
    labels = np.concatenate([file["labels"] for file in files])
    features = pixels.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(len(pixels), 16)
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    mixture = np.random.default_rng(0).standard_normal((16, INPUTS)) / 4.0
    return features, labels, np.clip(features @ mixture / 2.5, -1.0, 1.0)


def answered(box: BlackBox, driven: Array, piece: int = 120, attempts: int = 4) -> Array:
    """Drive in pieces; one that the device failed on is driven again, for which its driver opens a new link."""
    parts = []
    for start in range(0, len(driven), piece):
        values = driven[start : start + piece]
        for attempt in range(attempts):
            try:
                parts.append(box.respond(np.zeros((len(values), 0)), values))
                break
            except DeviceError:
                if attempt + 1 == attempts:
                    raise
    return np.concatenate(parts)


def compare(features: Array, answers: Array, labels: Array, splits: int, seed: int = 0) -> Margin:
    """Train the same linear read-out on features and on answers, over random splits of 7 to 3; samples are paired.

    The interval is a bootstrap over samples of each sample's mean difference over the splits that tested it.
    """
    rng = np.random.default_rng(seed)
    right, tested = np.zeros((2, len(labels))), np.zeros(len(labels))
    wanted = np.eye(10)[labels]
    for _ in range(splits):
        order = rng.permutation(len(labels))
        cut, end = int(0.56 * len(labels)), int(0.7 * len(labels))
        train, choice, test = order[:cut], order[cut:end], order[end:]
        for row, x in enumerate((features, answers)):
            matrix, offset, _ = ridge((x[train], wanted[train]), (x[choice], wanted[choice]))
            right[row, test] += (x[test] @ matrix + offset).argmax(axis=1) == labels[test]
        tested[test] += 1
    seen = tested > 0
    share = right[:, seen] / tested[seen]
    gain = share[1] - share[0]
    drawn = gain[rng.integers(0, len(gain), (2000, len(gain)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    accuracy = right.sum(axis=1) / tested.sum()
    return Margin(*map(float, (accuracy[0], accuracy[1], gain.mean(), drawn.std(), low, high)))
