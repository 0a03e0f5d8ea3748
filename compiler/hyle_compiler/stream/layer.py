"""One layer in the streamed compilation: see, choose, pass over the matrix, and answer for every variant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_bundle import TensorWriter
from hyle_bundle.manifest import Layer
from hyle_substrates import draws
from hyle_substrates.host import HostLayer, encode_rows
from hyle_substrates.profile import Profile

from hyle_compiler.activations import Collector
from hyle_compiler.build import Identity
from hyle_compiler.calibrate import Calibrated, polarity_of
from hyle_compiler.lower import describe_layer
from hyle_compiler.matrices import StoredMatrix
from hyle_compiler.place import Placed, PlacedBlock, Spans
from hyle_compiler.stream.feed import encoded_feeds, float_feeds
from hyle_compiler.stream.layer_pass import Passed, pass_over
from hyle_compiler.stream.plan import Plan, Variant
from hyle_compiler.stream.sampled_columns import SAMPLED, ColumnError, Columns, relative_errors
from hyle_compiler.stream.trial import choose

__all__ = ["LayerDone", "LayerRun", "run_layer"]

Array = np.ndarray[Any, Any]
Float32s = np.ndarray[Any, np.dtype[np.float32]]
PROBES = 64


@dataclass(frozen=True, slots=True, eq=False)
class LayerRun:
    """A layer, its number in the walk, and what it is run with."""

    spans: Spans
    plan: Plan
    profile: Profile
    identity: Identity
    writer: TensorWriter
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class LayerDone:
    """A layer's calibration, each variant's answers in the operator's layout, and relative errors by seed and age."""

    calibrated: Calibrated
    answers: dict[Variant, Array]
    errors: dict[tuple[int, float], ColumnError]


def run_layer(run: LayerRun, xs: Mapping[Variant, Array]) -> LayerDone:
    """Run one layer for every variant and write its tensors.

    Raises:
        CallerError: What drives the layer, or a weight, is NaN or infinite.
    """
    draft, vectors = _chosen(run, xs[run.plan.variants[0]])
    layer, cols = run.spans.layer, run.spans.layer.matrix.shape[1]
    picks = np.array([cols * i // min(SAMPLED, cols) for i in range(min(SAMPLED, cols))])
    floats = float_feeds([xs[variant] for variant in run.plan.variants if not variant.twin], layer.geometry)
    coded = encoded_feeds(
        [xs[variant] for variant in run.plan.variants if variant.twin],
        layer.geometry,
        run.profile,
        dynamic=draft.dynamic,
        full_scale=draft.full_scale,
    )
    described = describe_layer(draft)
    probes = float_feeds([vectors], None)
    passed = pass_over(run.spans, described, run.profile, [*floats, *probes], coded, picks, run.writer)
    if isinstance(layer.matrix, StoredMatrix):
        layer.matrix.release()
    done = _filled(draft, passed, run.profile)
    _write_numbers(run, described, done)
    errors = _errors(run, done, passed, picks)
    answers = _split(run, xs, passed)
    return LayerDone(done, {v: _output(run, done, v, xs[v], y, errors) for v, y in answers.items()}, errors)


def _chosen(run: LayerRun, x: Array) -> tuple[Calibrated, Float32s]:
    """The layer's ranges and copies, its blocks still without scales, and the vectors that are its probes."""
    layer, identity = run.spans.layer, run.identity
    rng = np.random.default_rng([identity.seed, run.number])
    collector = Collector(layer, len(run.plan.samples), rng, PROBES)
    collector.add(x)
    seen = collector.finish()
    part = choose(run.spans, seen, run.profile, identity.copies, identity.seed)
    nothing = np.zeros((0, layer.matrix.shape[1]), dtype=np.int8)
    blocks = tuple(PlacedBlock(rows, nothing, np.zeros(0, dtype=np.float32), tiles) for rows, tiles in run.spans.blocks)
    draft = dataclasses.replace(
        part,
        placed=Placed(layer, blocks),
        codes=encode_rows(run.profile, seen.vectors, part.scales).astype(part.codes.dtype),
        offset=np.asarray(layer.bias, dtype=np.float32),
        polarity=polarity_of(seen, run.profile),
    )
    return draft, seen.vectors


def _filled(draft: Calibrated, passed: Passed, profile: Profile) -> Calibrated:
    unit = np.float32(profile.adc_unit / profile.swing / draft.row_copies)
    return dataclasses.replace(
        draft,
        placed=Placed(draft.placed.layer, passed.blocks),
        gain=np.stack([block.top for block in passed.blocks]) * unit,
        wanted=passed.floats[-1],
        nonzero=passed.nonzero,
    )


def _write_numbers(run: LayerRun, layer: Layer, done: Calibrated) -> None:
    """Everything but the levels."""
    writer = run.writer
    writer.write(layer.full_scale, np.array(done.full_scale, dtype=np.float32))
    writer.write(layer.noise, np.array(run.profile.noise_factor, dtype=np.float32))
    writer.write(layer.offset, done.offset)
    for block, gain in zip(layer.blocks, done.gain, strict=True):
        writer.write(block.gain, gain.astype(np.float32))


def _errors(run: LayerRun, done: Calibrated, passed: Passed, picks: Array) -> dict[tuple[int, float], ColumnError]:
    wanted: dict[int, list[float]] = {}
    for variant in run.plan.variants:
        if variant.seed is not None:
            wanted.setdefault(variant.seed, []).append(variant.age_s)
    if not wanted:
        return {}
    stored = tuple(levels.astype(run.writer.dtype(f"{done.placed.layer.name}/0/levels")) for levels in passed.picked)
    columns = Columns(picks, stored, tuple(tiles[0].index for _, tiles in run.spans.blocks))
    mode = run.identity.compensation or run.profile.compensation
    return relative_errors(done, columns, run.profile, mode, wanted)


def _split(run: LayerRun, xs: Mapping[Variant, Array], passed: Passed) -> dict[Variant, Float32s]:
    """Each variant's answers without bias, vectors by columns, from those of all feeds one after another."""
    found = {}
    for twin, parts in ((False, passed.floats[:-1]), (True, passed.twins)):
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        at = 0
        for variant in (v for v in run.plan.variants if v.twin == twin):
            count = int(np.prod(_lead(run, xs[variant]), dtype=np.int64))
            found[variant] = joined[at : at + count]
            at += count
    return found


def _lead(run: LayerRun, x: Array) -> tuple[int, ...]:
    geometry = run.spans.layer.geometry
    return x.shape[:-1] if geometry is None else (x.shape[0], *geometry.output_shape(x.shape[2:]))


def _output(
    run: LayerRun,
    done: Calibrated,
    variant: Variant,
    x: Array,
    y: Float32s,
    errors: Mapping[tuple[int, float], ColumnError],
) -> Array:
    """An instance's answers are the exact twin's with Gaussian errors of the size that its columns have."""
    if variant.seed is not None:
        power = np.mean(np.square(y, dtype=np.float64), axis=1, keepdims=True)
        size = (np.sqrt(power) * errors[variant.seed, variant.age_s].relative).astype(np.float32)
        path = ("outputs", done.placed.layer.name, repr(variant.age_s))
        y = y + size * draws.normal(variant.seed, *path, shape=y.shape).astype(np.float32)
    host = HostLayer((), done.dynamic, done.full_scale, done.gain, done.offset, run.spans.layer.geometry)
    return host.layout(y + done.offset, _lead(run, x))
