"""Choosing a large layer's ranges and copies on a part of it."""

from __future__ import annotations

import dataclasses

import numpy as np
from hyle_substrates.profile import Profile

from hyle_compiler.activations import Observed
from hyle_compiler.calibrate import Calibrated, calibrate, room
from hyle_compiler.matrices import chunks, require_finite, rows_of
from hyle_compiler.place import Placed, PlacedBlock, PlacedTile, Spans, quantise

__all__ = ["TRIAL_WEIGHTS", "choose"]

TRIAL_WEIGHTS = 1 << 16


def choose(spans: Spans, seen: Observed, profile: Profile, copies: int | None, seed: int) -> Calibrated:
    """Calibrate a layer on blocks and columns that lie evenly over it, together about 65,000 weights.

    Errors of columns are alike and independent, so that the choice is that of the whole layer but for the statistical
    error of its columns' mean: with some hundred columns a few per cent of the error itself.

    Raises:
        ModelError: A weight is NaN or infinite.

    Returns:
        The part's calibration; of it ranges, copies, expected error and probes hold for the whole layer but `gain`,
        `offset` and `wanted`, which have the part's columns.
    """
    cols = spans.layer.matrix.shape[1]
    chosen = _blocks(spans, cols)
    rows = sum(stop - start for (start, stop), _ in chosen)
    picks = _evenly(cols, max(1, min(cols, TRIAL_WEIGHTS // rows)))
    parts, blocks, at = [], [], 0
    for (start, stop), _ in chosen:
        rows_read = chunks(start, stop, cols)
        part = np.concatenate([rows_of(spans.layer.matrix, a, b)[:, picks] for a, b in rows_read])
        require_finite(spans.layer.name, part)
        step = None if spans.layer.step is None else spans.layer.step[picks]
        levels, top = quantise(part, profile, step)
        here = (at, at + stop - start)
        blocks.append(PlacedBlock(here, levels, top, (PlacedTile(0, here, (0, len(picks))),)))
        parts.append(part)
        at = here[1]
    matrix = parts[0] if len(parts) == 1 else np.concatenate(parts)
    layer = dataclasses.replace(spans.layer, matrix=matrix, bias=spans.layer.bias[picks])
    vectors = np.concatenate([seen.vectors[:, start:stop] for (start, stop), _ in chosen], axis=1)
    few = dataclasses.replace(seen, vectors=vectors)
    return calibrate(Placed(layer, tuple(blocks)), few, profile, copies, seed, room(spans, profile, copies))


def _blocks(spans: Spans, cols: int) -> list[tuple[tuple[int, int], tuple[PlacedTile, ...]]]:
    tallest = max(stop - start for (start, stop), _ in spans.blocks)
    most = max(1, TRIAL_WEIGHTS // (tallest * min(cols, 2048)))
    return [spans.blocks[i] for i in _evenly(len(spans.blocks), min(most, len(spans.blocks)))]


def _evenly(size: int, count: int) -> list[int]:
    return [size * i // count for i in range(count)]
