"""Keep an accuracy budget: clipped weights and more devices a weight first, then the most sensitive layers digital.

Input ranges and copies in idle room of a tile are chosen in every compilation (`calibrate`), scales are a column's own.
Every step is measured on twin instances at the ages asked for. Layers that came from one operator (groups of a
convolution) move together.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from hyle_bundle.manifest import Golden
from hyle_bundle.scoring import rights, wanted_of
from hyle_substrates.profile import Profile

from hyle_compiler.build import Built, Identity, build
from hyle_compiler.errors import PlacementError
from hyle_compiler.evaluate import AgeResult, evaluate_folder
from hyle_compiler.partition import Digital, Partition, partition
from hyle_compiler.replicate import replicate
from hyle_compiler.samples import Samples

__all__ = [
    "Found",
    "Plan",
    "Point",
    "Question",
    "Sensitivity",
    "apply",
    "as_json",
    "search",
    "unit_of",
]

MOST_SAMPLES = 512
SENSITIVITY_SAMPLES = 64
STANDARD_ERRORS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which operators stay digital, by unit name, and how the others lie.

    `replicas` is the number of sets of tiles for each; with `clip` weights are clipped where that is expected to help.
    """

    digital: frozenset[str] = frozenset()
    replicas: int = 1
    clip: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """One plan and what was measured.

    `share` is the part of the multiply-accumulates with constant weights that is on physics; `drop` the worst loss over
    the ages against the float model and `error` its standard error, all as fractions.
    """

    plan: Plan
    share: float
    drop: float
    error: float
    tiles: int


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One operator alone on physics: its share of the multiply-accumulates, and the relative error of the outputs."""

    unit: str
    share: float
    residual: float


@dataclass(frozen=True, slots=True)
class Found:
    """The chosen plan, every set that was tried, each layer alone on physics, and whether the budget is kept."""

    plan: Plan
    frontier: tuple[Point, ...]
    sensitivity: tuple[Sensitivity, ...]
    kept: bool


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked: a model maker, samples with labels (or the float model's own choices), target, ages and budget."""

    fresh: Callable[[], ir.Model]
    samples: Samples
    profile: Profile
    identity: Identity
    max_drop: float
    ages_s: tuple[float, ...]
    instances: int
    most_replicas: int
    progress: Callable[[str], None]


def unit_of(name: str) -> str:
    """The operator that a layer came from: groups and replicas of one operator share it."""
    return re.sub(r"(_part\d+)?(_copy\d+)?$", "", name)


def apply(model: ir.Model, plan: Plan) -> Partition:
    """Partition a model by a plan; the model is changed in place."""
    parts = partition(model)
    chosen = [layer for layer in parts.physical if unit_of(layer.name) not in plan.digital]
    replicate(model, [layer.node for layer in chosen], plan.replicas)
    again = partition(model)
    kept = tuple(layer for layer in again.physical if unit_of(layer.name) not in plan.digital)
    left = [
        Digital(layer.name, layer.node.op_type, "the accuracy budget needs it digital")
        for layer in again.physical
        if unit_of(layer.name) in plan.digital
    ]
    return Partition(kept, (*again.digital, *left))


def search(question: Question) -> Found:
    """Find the plan with most multiply-accumulates on physics that keeps the budget.

    Returns:
        The plan; where even the last layer breaks the budget, that of the least loss, with `kept` false.
    """
    meter = _Meter(question)
    frontier = [meter.measure(Plan())]
    for plan in _cheaper(question):
        if _keeps(question, frontier[-1]):
            break
        try:
            frontier.append(meter.measure(plan))
        except PlacementError:
            break
    sensitivity: tuple[Sensitivity, ...] = ()
    if not _keeps(question, frontier[-1]):
        sensitivity = meter.alone()
        frontier += _shed(question, meter, min(frontier, key=lambda point: point.drop).plan, sensitivity)
    good = [point for point in frontier if _keeps(question, point)]
    best = max(good, key=lambda point: (point.share, -point.tiles)) if good else min(frontier, key=lambda p: p.drop)
    return Found(best.plan, tuple(frontier), sensitivity, bool(good))


def _cheaper(question: Question) -> Iterator[Plan]:
    """What is tried before any layer is given up, by the tiles that it takes."""
    clip = question.profile.weights.levels > 0
    if clip:
        yield Plan(clip=True)
    replicas = 2
    while replicas <= question.most_replicas:
        yield Plan(replicas=replicas, clip=clip)
        replicas *= 2


def _keeps(question: Question, point: Point) -> bool:
    return point.drop + STANDARD_ERRORS * point.error <= question.max_drop


def _shed(question: Question, meter: _Meter, plan: Plan, alone: Sequence[Sensitivity]) -> list[Point]:
    """Take layers off physics, most error a multiply-accumulate first, until the budget is kept; put back what fits.

    How many must go is found by halving, as if less error on physics never cost accuracy.
    """
    order = [layer.unit for layer in sorted(alone, key=lambda s: -(s.residual**2) / max(s.share, 1e-12))]
    tried: dict[int, Point] = {}
    low, high = 1, len(order) - 1
    while low < high:
        middle = (low + high) // 2
        tried[middle] = meter.measure(replace(plan, digital=frozenset(order[:middle])))
        low, high = (low, middle) if _keeps(question, tried[middle]) else (middle + 1, high)
    if high < 1:
        return []
    if high not in tried:
        tried[high] = meter.measure(replace(plan, digital=frozenset(order[:high])))
    found = list(tried.values())
    best = tried[high]
    if _keeps(question, best):
        for unit in sorted(order[: high - 1], key=lambda name: -meter.macs[name]):
            found.append(meter.measure(replace(plan, digital=best.plan.digital - {unit})))
            best = found[-1] if _keeps(question, found[-1]) else best
    return found


class _Meter:
    """Compiles plans and measures them on twin instances."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self.macs: dict[str, int] = {}

    def measure(self, plan: Plan) -> Point:
        """Compile and evaluate one plan."""
        q = self._question
        with tempfile.TemporaryDirectory(prefix="hyle-") as scratch:
            model = q.fresh()
            parts = apply(model, plan)
            q.progress(
                f"trying {len(parts.physical)} layers on physics, {plan.replicas} sets of tiles each"
                f"{', weights clipped' if plan.clip else ''}"
            )
            identity = replace(q.identity, clip_weights=plan.clip)
            built = build(Path(scratch), model, parts.physical, q.samples, q.profile, identity)
            self.macs = self.macs or _macs(built)
            losses = self._losses(Path(scratch), built, q.samples, q.instances)[0]
        share = sum(self.macs[name] for name in self.macs if name not in plan.digital) / sum(self.macs.values())
        drop, error = max(losses)
        return Point(plan, share, drop, error, sum(len(layer.tiles) for layer in built.manifest.layers))

    def alone(self) -> tuple[Sensitivity, ...]:
        """Measure each unit alone on physics, on one set of tiles."""
        return tuple(map(self._alone, self.macs))

    def _alone(self, unit: str) -> Sensitivity:
        q = self._question
        q.progress(f"measuring the sensitivity of {unit}")
        some = q.samples.head(min(SENSITIVITY_SAMPLES, len(q.samples)))
        with tempfile.TemporaryDirectory(prefix="hyle-") as scratch:
            model = q.fresh()
            parts = apply(model, Plan(frozenset(self.macs) - {unit}))
            built = build(Path(scratch), model, parts.physical, some, q.profile, q.identity)
            _, residual = self._losses(Path(scratch), built, some, 1)
        return Sensitivity(unit, self.macs[unit] / sum(self.macs.values()), residual)

    def _losses(
        self, folder: Path, built: Built, samples: Samples, instances: int
    ) -> tuple[list[tuple[float, float]], float]:
        """A loss with its standard error for every age, and the largest residual of the outputs."""
        q = self._question
        answers = built.exact[built.manifest.outputs[0].name]
        some = samples.head(min(MOST_SAMPLES, len(answers)))
        answers = answers[: len(some)]
        labels = wanted_of(answers, some.labels)
        manifest = msgspec.structs.replace(built.manifest, golden=Golden(0, 0.0, ""))
        seeds = [q.identity.seed + number for number in range(instances)]
        found = evaluate_folder(folder, manifest, q.profile, some, labels, metric="", ages_s=q.ages_s, seeds=seeds)
        exact = rights(answers, labels)
        losses = [(float(np.mean(exact)) - age.mean, _standard_error(age, exact)) for age in found.ages]
        return losses, max(float(np.mean(age.residuals)) for age in found.ages)


def _standard_error(age: AgeResult, exact: np.ndarray[Any, Any]) -> float:
    """Of a mean loss: the spread between instances, and that of the change of each sample, won or lost."""
    between = float(np.var(age.scores, ddof=1)) / len(age.scores) if len(age.scores) > 1 else 0.0
    samples = len(exact)
    changed = float(np.var(exact - age.rights, ddof=1)) if samples > 1 else 1.0
    return float(np.sqrt(between + max(changed, 1.0 / samples) / samples))


def _macs(built: Built) -> dict[str, int]:
    """Multiply-accumulates an inference with a weight other than zero, by unit."""
    found: dict[str, int] = {}
    for layer, measured in zip(built.manifest.layers, built.calibrated, strict=True):
        matrix = measured.placed.layer.matrix
        real = round(layer.macs * np.count_nonzero(matrix) / matrix.size)
        found[unit_of(layer.name)] = found.get(unit_of(layer.name), 0) + real
    return found


def as_json(found: Found, question: Question) -> dict[str, Any]:
    """The search as one JSON document; shares, drops and errors are fractions."""

    def rows(points: Iterable[Point]) -> list[dict[str, Any]]:
        return [
            {
                "share_of_macs": p.share,
                "drop": p.drop,
                "standard_error": p.error,
                "tiles": p.tiles,
                "replicas": p.plan.replicas,
                "clipped": p.plan.clip,
                "digital": sorted(p.plan.digital),
            }
            for p in points
        ]

    chosen = next(p for p in found.frontier if p.plan == found.plan)
    return {
        "max_drop": question.max_drop,
        "ages_s": list(question.ages_s),
        "instances": question.instances,
        "kept": found.kept,
        "chosen": rows([chosen])[0],
        "frontier": rows(found.frontier),
        "sensitivity": [{"layer": s.unit, "share_of_macs": s.share, "residual": s.residual} for s in found.sensitivity],
    }
