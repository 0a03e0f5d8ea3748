"""What a compiled model costs: tiles, latency, energy and programming time, per layer, beside a digital estimate.

Model: a vector drives all tiles of its layer at once, one vector after another; layers of one step lie on tiles of
their own and run side by side, steps one after another. Two-pass inputs drive twice. Where a reloadable chip has fewer
arrays than the model has tiles, every tile is written before it is read, once an inference. Constants are the
profile's; what it does not give is None. Digital operators between the layers, and moving data, are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyle_bundle.manifest import Layer, Manifest, Step
from hyle_substrates.profile import Profile

__all__ = ["DIGITAL", "Digital", "LayerCost", "Peak", "cost_as_json", "layer_cost", "peak"]


@dataclass(frozen=True, slots=True)
class Digital:
    """A digital processor to compare with: energy of a multiply-accumulate, and how many it does a second."""

    name: str
    mac_energy_j: float
    macs_per_s: float
    source: str


DIGITAL = Digital(
    "an 8-bit programmable edge processor in 22 nm",
    2 * 405e-15,
    77e9 / 2,
    "Molendijk et al. 2022, BrainTTA, arXiv 2211.11331: 405 fJ an operation and 77 GOPS at 8 bits",
)


@dataclass(frozen=True, slots=True)
class Peak:
    """Operations a second and a joule of a whole chip, two a multiply-accumulate; None where a constant is missing."""

    ops_per_s: float | None
    ops_per_j: float | None


def peak(profile: Profile) -> Peak:
    """What a chip does when every array is full and read without a pause."""
    operations = 2.0 * profile.array.rows * profile.array.cols
    cost, arrays = profile.cost, profile.array.count
    rate = operations * arrays / cost.mvm_latency_s if arrays and cost.mvm_latency_s else None
    return Peak(rate, operations / cost.mvm_energy_j if cost.mvm_energy_j else None)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer and one inference: reads of whole tiles, seconds, joules; `utilisation` is the used share of cells."""

    reads: float
    utilisation: float
    latency_s: float | None
    energy_j: float | None
    program_s: float | None
    digital_latency_s: float
    digital_energy_j: float


def layer_cost(layer: Layer, profile: Profile) -> LayerCost:
    """Cost of one layer on its own tiles."""
    cost, tiles = profile.cost, len(layer.tiles)
    vectors = layer.macs / (layer.rows * layer.cols) * (2 if layer.polarity == "two-pass" else 1)
    cells = sum(
        (tile.rows[1] - tile.rows[0]) * (tile.cols[1] - tile.cols[0]) * block.row_copies * block.col_copies
        for tile in layer.tiles
        for block in [layer.blocks[tile.block]]
    )
    arrays = profile.array.count if profile.array.reloadable else 0
    rounds = -(-tiles // arrays) if arrays else 1
    return LayerCost(
        vectors * tiles,
        cells / (tiles * profile.array.rows * profile.array.cols),
        vectors * rounds * cost.mvm_latency_s if cost.mvm_latency_s else None,
        vectors * tiles * cost.mvm_energy_j if cost.mvm_energy_j else None,
        tiles * cost.program_time_s if cost.program_time_s else None,
        layer.macs / DIGITAL.macs_per_s,
        layer.macs * DIGITAL.mac_energy_j,
    )


def cost_as_json(manifest: Manifest, profile: Profile) -> dict[str, Any]:
    """Cost of a model, as one JSON document; times in seconds, energies in joules, of one inference.

    Args:
        manifest: The model, with its steps.
        profile: All devices side by side; `manifest.devices` says how many there are.
    """
    layers = {layer.name: layer_cost(layer, profile) for layer in manifest.layers}
    tiles = sum(len(layer.tiles) for layer in manifest.layers)
    room = profile.array.count
    share = room // manifest.devices
    reloads = tiles if profile.array.reloadable and room and tiles > room else 0
    reload_s = reloads * profile.cost.program_time_s / manifest.devices if reloads else 0.0
    serial = _serial(manifest.steps, layers)
    programming = [one.program_s for one in layers.values()]
    latencies = [one.latency_s for one in layers.values() if one.latency_s]
    return {
        "tiles": tiles,
        "devices": manifest.devices,
        "tiles_a_device": share or None,
        "utilisation": _mean(layers, manifest.layers),
        "reloads": reloads,
        "latency_s": None if serial is None else serial + reload_s,
        "pipelined_per_s": 1.0 / max(latencies) if serial and latencies and not reloads else None,
        "energy_j": _total([one.energy_j for one in layers.values()]),
        "program_s": None if None in programming else _longest(manifest, share) * profile.cost.program_time_s,
        "peak_ops_per_s": peak(profile).ops_per_s,
        "peak_ops_per_j": peak(profile).ops_per_j,
        "digital": {
            "name": DIGITAL.name,
            "source": DIGITAL.source,
            "latency_s": sum(one.digital_latency_s for one in layers.values()),
            "energy_j": sum(one.digital_energy_j for one in layers.values()),
        },
        "layers": [
            {
                "name": layer.name,
                "tile_reads": one.reads,
                "utilisation": one.utilisation,
                "devices": sorted({_device(tile.index, share) for tile in layer.tiles}),
                "latency_s": one.latency_s,
                "energy_j": one.energy_j,
                "program_s": one.program_s,
                "digital_latency_s": one.digital_latency_s,
                "digital_energy_j": one.digital_energy_j,
            }
            for layer in manifest.layers
            for one in [layers[layer.name]]
        ],
    }


def _device(tile: int, share: int) -> int:
    return tile // share if share else 0


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _mean(layers: Mapping[str, LayerCost], described: Sequence[Layer]) -> float:
    tiles = sum(len(layer.tiles) for layer in described)
    return sum(layers[layer.name].utilisation * len(layer.tiles) for layer in described) / tiles if tiles else 0.0


def _longest(manifest: Manifest, share: int) -> int:
    """Most tiles on one device: they are programmed one after another, devices side by side."""
    counts: dict[int, int] = {}
    for layer in manifest.layers:
        for tile in layer.tiles:
            device = _device(tile.index, share)
            counts[device] = counts.get(device, 0) + 1
    return max(counts.values(), default=0)


def _serial(steps: Sequence[Step], layers: Mapping[str, LayerCost]) -> float | None:
    """Latency of all steps; a layer's own latency counts all its turns in a loop."""
    total = 0.0
    for step in steps:
        here = [layers[name].latency_s for name in step.layers if name in layers]
        if None in here:
            return None
        total += max((value for value in here if value is not None), default=0.0)
        for control in step.controls:
            for body in control.bodies:
                inner = _serial(body.steps, layers)
                if inner is None:
                    return None
                total += inner
    return total
