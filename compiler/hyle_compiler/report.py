"""What `report.json` says; `hyle_compiler.page` draws `report.html` from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyle_bundle.manifest import Layer, Manifest
from hyle_substrates.profile import Profile

from hyle_compiler.calibrate import Calibrated
from hyle_compiler.durations import format_duration
from hyle_compiler.layer_quality import Quality
from hyle_compiler.partition import Digital

WARN_POINTS = 2.0
WARN_SNR_DB = 6.0
FEW_LABELS = 4

__all__ = ["build_report", "write_json"]


def build_report(
    *,
    manifest: Manifest,
    profile: Profile,
    calibrated: Sequence[Calibrated],
    quality: Quality,
    digital: Sequence[Digital],
    float_score: float,
    exact_score: float,
    evaluation: Mapping[str, Any],
    labels: np.ndarray[Any, Any] | None = None,
) -> dict[str, Any]:
    """Gather what the compiler found, as one JSON document.

    Scores, shares and sensitivities are fractions, times seconds, energies joules, signal-to-noise ratios decibels, one
    for each age of the calibration. `labels` (samples first) are those that the samples brought, if they did.
    """
    layers = manifest.layers
    ages = [age["age_s"] for age in evaluation["ages"]]
    rows = [
        _layer_row(layer, measured, profile, quality, ages) for layer, measured in zip(layers, calibrated, strict=True)
    ]
    return {
        "model": manifest.name,
        "version": manifest.version,
        "made": {
            "compiler": manifest.compiler,
            "seed": manifest.seed,
            "compensation": manifest.compensation,
            "source_sha256": manifest.source_sha256,
        },
        "target": profile.name,
        "title": profile.title,
        "sources": list(profile.sources),
        "validity": profile.validity,
        "tiles": sum(len(layer.tiles) for layer in layers),
        "macs_on_physics": sum(_own_macs(layer, measured) for layer, measured in zip(layers, calibrated, strict=True)),
        "latency_s": sum(row["latency_s"] for row in rows) or None,
        "energy_j": sum(row["energy_j"] for row in rows) or None,
        "layers": rows,
        "floor": _floor(layers, profile),
        "digital": [{"node": d.node, "op": d.op_type, "reason": d.reason} for d in digital],
        "warnings": [
            *_label_warnings(labels, float_score),
            *_accuracy_warnings(float_score, evaluation),
            *_layer_warnings(rows, ages),
        ],
        "calibration": {"float": float_score, "exact": exact_score, **evaluation},
    }


def _layer_row(
    layer: Layer, measured: Calibrated, profile: Profile, quality: Quality, ages: Sequence[float]
) -> dict[str, Any]:
    """One layer's place, size, quality and cost; every position of a convolution is one read."""
    reads = layer.macs / (layer.rows * layer.cols)
    return {
        "name": layer.name,
        "op": layer.op,
        "rows": layer.rows,
        "cols": layer.cols,
        "tiles": len(layer.tiles),
        "copies": measured.row_copies * measured.col_copies,
        "macs": layer.macs,
        "range": layer.range_mode,
        "full_scale": None if measured.dynamic else measured.full_scale,
        "converter_error": measured.error,
        "utilisation": _utilisation(layer, profile),
        "snr_db": quality.snr_db(layer.name, ages),
        "sensitivity": quality.sensitivity(layer.name),
        "latency_s": reads * profile.cost.mvm_latency_s,
        "energy_j": reads * len(layer.tiles) * profile.cost.mvm_energy_j,
    }


def _own_macs(layer: Layer, measured: Calibrated) -> int:
    """Multiply-accumulates with a weight other than zero; further replicas of a layer do no work of the model's own."""
    if re.search(r"_copy[1-9]$", layer.name):
        return 0
    matrix = measured.placed.layer.matrix
    nonzero = np.count_nonzero(matrix) if measured.nonzero is None else measured.nonzero
    return round(layer.macs * nonzero / matrix.size)


def _used(layer: Layer) -> list[tuple[int, int]]:
    """Rows and columns that the layer's matrix, with its copies, takes on each of its tiles."""
    return [
        (
            (tile.rows[1] - tile.rows[0]) * layer.blocks[tile.block].row_copies,
            (tile.cols[1] - tile.cols[0]) * layer.blocks[tile.block].col_copies,
        )
        for tile in layer.tiles
    ]


def _utilisation(layer: Layer, profile: Profile) -> float:
    """Share of the crosspoints of the layer's tiles that hold a weight."""
    whole = len(layer.tiles) * profile.array.rows * profile.array.cols
    return sum(rows * cols for rows, cols in _used(layer)) / whole if whole else 0.0


def _floor(layers: Sequence[Layer], profile: Profile) -> dict[str, Any]:
    """Where the layers lie: tiles in order, neighbours alike in one entry, with the rows and columns in use."""
    tiles: list[dict[str, int]] = []
    for number, layer in enumerate(layers):
        for rows, cols in _used(layer):
            entry = {"layer": number, "rows": rows, "cols": cols}
            if tiles and {**tiles[-1], "count": 0} == {**entry, "count": 0}:
                tiles[-1]["count"] += 1
            else:
                tiles.append({**entry, "count": 1})
    return {
        "rows": profile.array.rows,
        "cols": profile.array.cols,
        "tiles_on_chip": profile.array.count or None,
        "reloadable": profile.array.reloadable,
        "tiles": tiles,
    }


def _label_warnings(labels: np.ndarray[Any, Any] | None, float_score: float) -> list[dict[str, str]]:
    """Labels that say nothing of accuracy, or that the float model itself never meets."""
    if labels is None or len(labels) < FEW_LABELS:
        return []
    found = []
    if (labels == labels.flat[0]).all():
        message = f"All {len(labels)} labels are {labels.flat[0]}: a model that answered nothing else would be right."
        found.append({"message": message, "remedy": "Give samples of every class, mixed."})
    if float_score == 0.0:
        remedy = "Check that labels count the model's outputs in its own order, from 0, and how samples are prepared."
        found.append({"message": f"The float model itself answers none of {len(labels)} labels.", "remedy": remedy})
    return found


def _accuracy_warnings(float_score: float, evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """At which ages much of the accuracy is gone."""
    return [
        {
            "message": f"After {format_duration(age['age_s'])} the twin loses {lost:.1f} points of the float model's "
            f"{100 * float_score:.1f} %.",
            "remedy": "Allow more --copies, let the model adapt (--adapt auto), set a budget (--max-drop), or choose "
            "another target.",
        }
        for age in evaluation["ages"]
        if (lost := 100 * (float_score - age["mean"])) > WARN_POINTS
    ]


def _layer_warnings(rows: Sequence[Mapping[str, Any]], ages_s: Sequence[float]) -> list[dict[str, str]]:
    """Which layers have hardly more signal than noise at the last age."""
    weak = [row for row in rows if row["snr_db"][-1] is not None and row["snr_db"][-1] < WARN_SNR_DB]
    return [
        {
            "message": f"Layer {row['name']} keeps {row['snr_db'][-1]:.1f} dB of signal over noise after "
            f"{format_duration(ages_s[-1])}.",
            "remedy": "Give it more --copies, or set a budget (--max-drop) so that it stays digital if that is better.",
        }
        for row in weak
    ]


def write_json(report: Mapping[str, Any]) -> bytes:
    """The report's one form."""
    return (json.dumps(report, indent=2, sort_keys=True) + "\n").encode()
