"""What the walk's twins say of the compiled model: scores, the self-test's bound, and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyle_bundle.manifest import Manifest
from hyle_bundle.scoring import rights, score, wanted_of
from hyle_runtime.residual import residual_of
from hyle_substrates.profile import Profile

from hyle_compiler import report as reports
from hyle_compiler.evaluate import AgeResult, Evaluation, as_json
from hyle_compiler.exactness import check_ideal, require_samples_first
from hyle_compiler.golden import GOLDEN_SAMPLES, golden_labels
from hyle_compiler.partition import Digital
from hyle_compiler.self_test_bound import with_self_test
from hyle_compiler.stream.build import Streamed
from hyle_compiler.stream.plan import Plan, Variant
from hyle_compiler.stream.sampled_columns import SAMPLED, ColumnError

__all__ = ["verify_streamed"]

Array = np.ndarray[Any, Any]


def verify_streamed(
    done: Streamed, plan: Plan, profile: Profile, digital: Sequence[Digital], tolerance: float
) -> tuple[Manifest, dict[str, Any]]:
    """Score the variants against the float model; the manifest gets its self-test bound, the report its figures.

    Raises:
        VerificationError: On perfect matter the answers differ.
        ModelError: The first output does not count samples.
    """
    first = done.manifest.outputs[0].name
    require_samples_first(first, done.answers[plan.variants[0]])
    exact, nominal = done.answers[plan.variants[0]][first][: plan.verified], done.answers[plan.variants[1]][first]
    given = plan.samples.labels
    labels = wanted_of(exact, None if given is None else given[: plan.verified])
    metric = "agreement" if given is None else "top-1"
    if profile.substrate == "ideal" and not (profile.weights.levels or profile.dac.levels or profile.adc.levels):
        check_ideal(nominal, exact, tolerance)
    evaluation = _evaluation(done, plan, labels, metric)
    report = reports.build_report(
        manifest=done.manifest,
        profile=profile,
        calibrated=done.calibrated,
        quality=_SampledQuality(done.errors),
        digital=digital,
        float_score=score(exact, labels),
        exact_score=score(nominal, labels),
        labels=None if given is None else labels,
        evaluation=as_json(evaluation),
    )
    report["streamed"] = {"calibrated_samples": len(plan.samples), "verified_samples": plan.verified}
    report["warnings"].append(_caveat(plan, profile))
    count = min(GOLDEN_SAMPLES, len(plan.samples))
    labels_held = golden_labels(done.answers[plan.variants[0]], plan.verified)
    return with_self_test(done.manifest, report, evaluation, count, labels=labels_held), report


@dataclass(frozen=True, slots=True)
class _SampledQuality:
    """Layers' quality as sampled columns give it: relative errors by layer, seed and age."""

    errors: Mapping[str, Mapping[tuple[int, float], ColumnError]]

    def snr_db(self, layer: str, ages_s: Sequence[float]) -> list[float | None]:
        """Mean over instances, in decibels, of what answers vary by about their column's mean over the error."""
        return [
            self._decibels([e.over_signal for (_, at), e in self.errors[layer].items() if at == age]) for age in ages_s
        ]

    def sensitivity(self, layer: str) -> float | None:
        """It would take a run of the model for every layer."""
        return None

    @staticmethod
    def _decibels(errors: Sequence[float]) -> float | None:
        return float(np.mean([-20.0 * math.log10(e) for e in errors])) if errors and min(errors) > 0.0 else None


def _evaluation(done: Streamed, plan: Plan, labels: Array, metric: str) -> Evaluation:
    first = done.manifest.outputs[0].name
    groups: dict[float, list[Variant]] = {}
    for variant in plan.variants:
        if variant.seed is not None:
            groups.setdefault(variant.age_s, []).append(variant)
    rows = []
    for age, variants in (groups or {0.0: [plan.variants[1]]}).items():
        residuals = tuple(_residual(done, plan, variant) for variant in variants)
        right = [rights(done.answers[variant][first], labels) for variant in variants]
        rows.append(AgeResult(age, tuple(float(np.mean(r)) for r in right), residuals, np.mean(right, axis=0)))
    return Evaluation(metric, plan.verified, tuple(rows))


def _residual(done: Streamed, plan: Plan, variant: Variant) -> float:
    exact = done.answers[plan.variants[0]]
    return residual_of((done.answers[variant][name], exact[name][: plan.verified]) for name in exact)


def _caveat(plan: Plan, profile: Profile) -> dict[str, str]:
    """How much of what the report says was measured."""
    remedy = "Run `hyle evaluate` where there is memory for the whole model."
    told = f"Compiled layer by layer: calibrated on {len(plan.samples)} samples, verified on {plan.verified}"
    if len(plan.variants) == 2:
        return {"message": f"{told} on exact matter, every weight included.", "remedy": remedy}
    instances = len({variant.seed for variant in plan.variants if variant.seed is not None})
    told += (
        f": exact matter with every weight included; {instances} instances of {profile.name} by the errors that "
        f"{SAMPLED} columns of every layer have, drawn for all its outputs."
    )
    return {"message": told, "remedy": remedy}
