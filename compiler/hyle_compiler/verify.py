"""What the compiled model does on its twin, and on the device it was measured on, before anybody relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hyle_bundle.manifest import Manifest
from hyle_bundle.scoring import score, wanted_of

from hyle_compiler import report as reports
from hyle_compiler.activations import perturbed
from hyle_compiler.build import Built
from hyle_compiler.evaluate import as_json, evaluate_folder, exact_body, run_batches
from hyle_compiler.exactness import check_ideal, require_samples_first
from hyle_compiler.golden import fixed_batch, golden_count, golden_labels
from hyle_compiler.layer_quality import LayerQuality
from hyle_compiler.options import Setting
from hyle_compiler.partition import Partition
from hyle_compiler.samples import Samples
from hyle_compiler.self_test_bound import with_self_test

if TYPE_CHECKING:
    from hyle_compiler.attachment import Attachment

__all__ = ["VERIFY_AGES_S", "verify"]

VERIFY_AGES_S = (25.0, 86400.0, 31536000.0)
AGELESS = (0.0,)
VERIFY_SAMPLES = 256


def verify(
    folder: Path,
    manifest: Manifest,
    setting: Setting,
    built: Built,
    parts: Partition,
    tolerance: float,
    attached: Attachment | None = None,
) -> tuple[Manifest, dict[str, Any]]:
    """Hold the twin against the float model.

    Args:
        folder: Where the bundle's files lie.
        manifest: Its manifest.
        setting: The compilation's.
        built: What was built, with the float model's answers.
        parts: What is on physics and what is not.
        tolerance: How far perfect matter may be from the float model, as a share of its range.
        attached: The device that the model was measured on, if there is one.

    Returns:
        The manifest with its self-test bound, and the report with its figures.
    """
    profile, progress = setting.profile, setting.progress
    first = manifest.outputs[0].name
    require_samples_first(first, built.exact)
    answers = built.exact[first]
    some = _some(setting, manifest, len(answers))
    wanted = answers[: len(some)]
    labels = wanted_of(wanted, some.labels)
    progress("verifying on the exact twin")
    perfect = exact_body(folder, manifest, profile, fused=False)
    nominal = run_batches(perfect, some, first)
    ages, seeds = _ages_and_seeds(setting, boxes=bool(manifest.boxes))
    if ages == AGELESS and not (profile.weights.levels or profile.dac.levels):
        check_ideal(nominal, wanted, tolerance, lambda: perturbed(folder, some, first))
    quality = LayerQuality(folder, perfect, some, ages[len(ages) // 2])
    evaluation = evaluate_folder(
        folder,
        manifest,
        profile,
        some,
        labels,
        metric="agreement" if some.labels is None else "top-1",
        ages_s=ages,
        seeds=seeds,
        progress=progress,
        watch=quality.watch,
        later=ages != AGELESS,
    )
    report = reports.build_report(
        manifest=manifest,
        profile=profile,
        calibrated=built.calibrated,
        quality=quality,
        digital=parts.digital,
        float_score=score(wanted, labels),
        exact_score=score(nominal, labels),
        labels=None if some.labels is None else labels,
        evaluation=as_json(evaluation),
    )
    count = golden_count(manifest.inputs, len(answers), apart=some.apart)
    manifest = with_self_test(manifest, report, evaluation, count, labels=golden_labels(built.exact, count))
    if attached is not None:
        progress("running the compiled model on the device")
        young = float(np.mean(evaluation.ages[0].residuals))
        manifest = attached.prove(folder, manifest, some, labels, young)
    return manifest, report


def _some(setting: Setting, manifest: Manifest, count: int) -> Samples:
    """Samples to verify on, whole batches where the model's batch is fixed."""
    size = fixed_batch(manifest.inputs, apart=setting.samples.apart)
    return setting.samples.head(min(max(size, VERIFY_SAMPLES // size * size), count))


def _ages_and_seeds(setting: Setting, *, boxes: bool) -> tuple[tuple[float, ...], list[int]]:
    """Ages in seconds and seeds of the instances; perfect matter has no age, and without boxes one instance."""
    profile, options = setting.profile, setting.options
    ageless = profile.substrate == "ideal" and not profile.adc.levels
    instances = 1 if ageless and not boxes else options.instances
    return AGELESS if ageless else VERIFY_AGES_S, list(range(options.seed, options.seed + instances))
