"""What the matter does to each layer: signal-to-noise ratio over time, and what it alone does to the answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from hyle_bundle.manifest import Manifest
from hyle_runtime.body import Body
from hyle_runtime.residual import residual_of
from hyle_runtime.steps import Steps

from hyle_compiler.exactness import require_number
from hyle_compiler.samples import Samples

__all__ = ["LayerQuality", "Quality", "sensitivity", "sensitivity_samples"]

Array = np.ndarray[Any, Any]
INSTANCES = 2
MOST_SAMPLES = 16
MOST_MACS = 2_000_000_000
ROUNDING_DB = 100.0


class Quality(Protocol):
    """What a report says of each layer, by its name."""

    def snr_db(self, layer: str, ages_s: Sequence[float]) -> list[float | None]:
        """Signal-to-noise ratio at each age, in decibels; None where none is known.

        Signal is what a layer's answers vary by about each column's mean, which is the same whatever the input.
        """

    def sensitivity(self, layer: str) -> float | None:
        """Relative change of the answers when this layer alone is on physics; None: not measured."""


@dataclass(slots=True)
class LayerQuality:
    """Gathers each layer's quality while the twin is evaluated: hand `watch` to `evaluate_folder`.

    Args:
        folder: Where the bundle's files lie.
        exact: The model on matter that holds its targets.
        samples: The samples that are being evaluated.
        age_s: At which age, in seconds, the sensitivity is measured.
    """

    folder: Path
    exact: Body
    samples: Samples
    age_s: float
    _ratios: dict[tuple[str, float], list[float]] = field(default_factory=dict)
    _sensitivity: dict[str, float] = field(default_factory=dict)

    def watch(self, number: int, age_s: float, body: Body) -> None:
        """Measure one corrected instance (its number from 0) at one age in seconds."""
        if number >= INSTANCES:
            return
        for layer in body.manifest.layers:
            self._ratios.setdefault((layer.name, age_s), []).append(body.signal_to_noise(layer.name))
        if number == 0 and age_s == self.age_s:
            count = 0 if self.samples.apart else sensitivity_samples(body.manifest, len(self.samples))
            self._sensitivity = sensitivity(self.folder, self.exact, body, self.samples.head(count)) if count else {}

    def snr_db(self, layer: str, ages_s: Sequence[float]) -> list[float | None]:
        """Mean signal-to-noise ratio over instances at each age, in decibels; None where only float32 rounds."""
        return [_decibels(self._ratios.get((layer, age), [])) for age in ages_s]

    def sensitivity(self, layer: str) -> float | None:
        """Relative root-mean-square change of the answers when this layer alone is on physics; None: not measured."""
        return self._sensitivity.get(layer)


def _decibels(ratios: Sequence[float]) -> float | None:
    if not ratios or not all(0.0 < ratio < math.inf for ratio in ratios):
        return None
    mean = float(np.mean([10.0 * math.log10(ratio) for ratio in ratios]))
    return mean if mean < ROUNDING_DB else None


def sensitivity_samples(manifest: Manifest, available: int) -> int:
    """On how many samples sensitivities are measured: so many that they take no more than `MOST_MACS`; may be 0."""
    if manifest.boxes:
        return 0
    macs = sum(layer.macs for layer in manifest.layers) * (len(manifest.layers) + 1)
    fixed = max((info.shape[0] for info in manifest.inputs if info.shape and info.shape[0] > 0), default=0)
    count = min(available, fixed or MOST_SAMPLES, int(MOST_MACS / macs) if macs else MOST_SAMPLES)
    return 0 if fixed and count < fixed else count


def sensitivity(folder: Path, exact: Body, body: Body, samples: Samples) -> dict[str, float]:
    """Put one layer after another on physics and leave the others exact.

    Args:
        folder: Where the bundle's files lie.
        exact: The model on matter that holds its targets.
        body: The same model on a device, corrected.
        samples: One batch.

    Returns:
        For every layer the root of the power of the outputs' change, over the power of the exact outputs; of a model
        that answers with labels alone the share that changed.
    """
    chosen = ""

    def run_layer(name: str, known: dict[str, Any]) -> None:
        (body if name == chosen else exact).run_layer(name, known)

    steps = Steps(folder, exact.manifest.steps, run_layer)
    wanted = steps.run(samples.arrays)
    found: dict[str, float] = {}
    for layer in exact.manifest.layers:
        chosen = layer.name
        found[layer.name] = _change(exact.manifest, wanted, steps.run(samples.arrays))
    steps.close()
    return found


def _change(manifest: Manifest, wanted: Mapping[str, Any], got: Mapping[str, Any]) -> float:
    pairs = [(np.asarray(got[output.name]), np.asarray(wanted[output.name])) for output in manifest.outputs]
    return require_number(residual_of(pairs))
