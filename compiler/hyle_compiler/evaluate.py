"""Accuracy of a compiled model on the twin, over time and device instances."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
from hyle_bundle import TensorFile
from hyle_bundle.manifest import Manifest
from hyle_bundle.scoring import rights, score, wanted_of
from hyle_runtime.body import Body
from hyle_substrates.profile import Profile, decode_profile, several_devices
from hyle_substrates.twin import TwinDriver

from hyle_compiler.activations import BATCH as FLOAT_BATCH
from hyle_compiler.activations import run_in_batches, start_session
from hyle_compiler.durations import format_duration
from hyle_compiler.errors import CalibrationError, ModelError
from hyle_compiler.golden import fixed_batch
from hyle_compiler.progress import Counted
from hyle_compiler.samples import InputSpec, Samples, load_samples
from hyle_compiler.segments import DATATYPES

__all__ = [
    "DATATYPES",
    "AgeResult",
    "Evaluation",
    "as_json",
    "evaluate_bundle",
    "evaluate_folder",
    "exact_body",
    "run_batches",
    "specs_of",
    "tensor_file",
]

Array = np.ndarray[Any, Any]
BATCH = 128
NUMPY_TYPES = {word: name for name, word in DATATYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class AgeResult:
    """Scores of the instances at one age: fractions from 0 to 1, and self-test residuals.

    `rights` is how often each sample was answered right, over the instances, from 0 to 1. `later` are the residuals
    once the instances have become twice as old without another correction, where that was asked for.
    """

    age_s: float
    scores: tuple[float, ...]
    residuals: tuple[float, ...]
    rights: Array
    later: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over instances."""
        return float(np.mean(self.scores))

    @property
    def std(self) -> float:
        """Standard deviation over instances (sample), 0 for one instance."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`metric` is `top-1` against labels, or `agreement` with the reference's own top choice."""

    metric: str
    samples: int
    ages: tuple[AgeResult, ...]


def tensor_file(path: Path) -> TensorFile:
    """Map a tensor file of an extracted bundle into memory."""
    return TensorFile(memoryview(np.memmap(path, dtype=np.uint8, mode="r")))  # type: ignore[arg-type]


def run_batches(body: Body, samples: Samples, output: str) -> Array:
    """Answers of one output for all samples, where the batch is fixed in whole batches.

    A model that does not answer each sample by itself is asked in the batches that the float model was.
    """
    fixed = [info.shape[0] for info in body.manifest.inputs if info.shape and info.shape[0] > 0]
    free = BATCH if body.manifest.stackable else FLOAT_BATCH
    return samples.join([body.run(feed)[output] for feed in samples.batches(min(fixed, default=free))])


def evaluate_folder(
    folder: Path,
    manifest: Manifest,
    profile: Profile,
    samples: Samples,
    labels: Array,
    *,
    metric: str,
    ages_s: Sequence[float],
    seeds: Sequence[int],
    threads: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    watch: Callable[[int, float, Body], None] = lambda number, age_s, body: None,
    later: bool = False,
) -> Evaluation:
    """Run every instance at every age, each corrected as the bundle says.

    Args:
        folder: Where the bundle's files lie.
        manifest: Its manifest.
        profile: The constraint sheet it was compiled against.
        samples: What to answer.
        labels: One label a sample.
        metric: Name of the score.
        ages_s: Ages in seconds after programming.
        seeds: One instance each.
        threads: Threads for one operator; 0 for all cores.
        progress: Told what is being done.
        watch: Shown every instance (its number from 0) at every age (in seconds), programmed and corrected.
        later: Test every instance once more at twice each age, which must be below the next one.
    """
    programming, golden = tensor_file(folder / "programming.safetensors"), tensor_file(folder / "golden.safetensors")
    found: dict[float, list[_Seen]] = {age: [] for age in ages_s}
    for number, seed in enumerate(seeds):
        driver = TwinDriver(profile, seed)
        body = Body(folder, manifest, programming, golden, driver, threads=threads)
        body.program(correct=False)
        for step, age in enumerate(ages_s):
            where = f"evaluating: instance {number + 1} of {len(seeds)}, age {format_duration(age)}"
            progress(Counted(where, done=number * len(ages_s) + step, total=len(seeds) * len(ages_s)))
            driver.advance(age)
            with _seeded_noise(seed, age):
                body.recalibrate()
            watch(number, age, body)
            answers = run_batches(body, samples, manifest.outputs[0].name)
            seen = _Seen(rights(answers, labels), body.self_test().residual)
            if later:
                driver.advance(2.0 * age)
                with _seeded_noise(seed, 2.0 * age):
                    body.renew()
                seen.later = body.self_test().residual
            found[age].append(seen)
        driver.close()
    return Evaluation(metric, len(labels), tuple(_age_result(age, instances) for age, instances in found.items()))


@dataclass(slots=True)
class _Seen:
    """One instance at one age; the names are those of `AgeResult`."""

    rights: Array
    residual: float
    later: float | None = None


def _age_result(age_s: float, instances: Sequence[_Seen]) -> AgeResult:
    return AgeResult(
        age_s,
        tuple(float(np.mean(seen.rights)) for seen in instances),
        tuple(seen.residual for seen in instances),
        np.mean([seen.rights for seen in instances], axis=0),
        tuple(seen.later for seen in instances if seen.later is not None),
    )


@contextlib.contextmanager
def _seeded_noise(seed: int, age_s: float) -> Iterator[None]:
    """Let sessions that start here draw their read noise from a seed; later ones draw from the system's again."""
    digest = blake2b(repr((seed, age_s)).encode(), digest_size=4).digest()
    ort.set_seed(int.from_bytes(digest) >> 1)
    try:
        yield
    finally:
        ort.set_seed(secrets.randbits(31))


def as_json(evaluation: Evaluation) -> Mapping[str, object]:
    """The evaluation as one JSON document."""
    return {
        "metric": evaluation.metric,
        "samples": evaluation.samples,
        "ages": [
            {
                "age_s": a.age_s,
                "mean": a.mean,
                "std": a.std,
                "scores": list(a.scores),
                "residual": float(np.mean(a.residuals)),
            }
            for a in evaluation.ages
        ],
    }


def evaluate_bundle(
    folder: Path,
    manifest: Manifest,
    data: Path,
    *,
    ages_s: Sequence[float],
    seeds: Sequence[int],
    float_model: Path | None = None,
    threads: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluate an extracted bundle on an `.npz` file; one JSON document with `float`, `exact` and the ages' scores.

    Without labels the score is the agreement with the float model, or, where none is given, with exact matter. Samples
    that do not fill a batch of fixed size are left out.
    """
    if not seeds:
        raise CalibrationError("There is no device instance to evaluate.", remedy="Give --instances of 1 or more.")
    if float_model is not None and not float_model.is_file():
        raise ModelError(f"There is no file {float_model}.", remedy="Give the path of the float ONNX model.")
    profile = several_devices(decode_profile((folder / "profile.toml").read_bytes()), manifest.devices)
    samples = _whole_batches(load_samples(data, specs_of(manifest)), manifest)
    first = manifest.outputs[0].name
    reference = _float_answers(float_model, samples) if float_model else None
    exact = run_batches(exact_body(folder, manifest, profile), samples, first)
    chosen = exact if reference is None else reference
    labels = wanted_of(chosen, samples.labels)
    metric = "top-1" if samples.labels is not None else "agreement"
    found = evaluate_folder(
        folder,
        manifest,
        profile,
        samples,
        labels,
        metric=metric,
        ages_s=ages_s,
        seeds=seeds,
        threads=threads,
        progress=progress,
    )
    scores = {"float": None if reference is None else score(reference, labels), "exact": score(exact, labels)}
    return {**scores, **as_json(found)}


def _whole_batches(samples: Samples, manifest: Manifest) -> Samples:
    size = fixed_batch(manifest.inputs, apart=samples.apart)
    if len(samples) < size:
        raise CalibrationError(
            f"The model wants batches of {size}; there are {len(samples)} samples.", remedy="Give more samples."
        )
    return samples.head(len(samples) // size * size)


def exact_body(folder: Path, manifest: Manifest, profile: Profile, *, fused: bool = True) -> Body:
    """The compiled model on matter that holds its targets, without noise and without correction."""
    plain = msgspec.structs.replace(manifest, compensation="none")
    programming, golden = tensor_file(folder / "programming.safetensors"), tensor_file(folder / "golden.safetensors")
    body = Body(
        folder, plain, programming, golden, TwinDriver(profile, noiseless=True, exact=True), fused=fused, noiseless=True
    )
    body.program()
    return body


def specs_of(manifest: Manifest) -> tuple[InputSpec, ...]:
    """The bundle's inputs as samples are held against them."""
    return tuple(
        InputSpec(
            info.name, np.dtype(NUMPY_TYPES[info.datatype]), tuple(None if size < 0 else size for size in info.shape)
        )
        for info in manifest.inputs
    )


def _float_answers(path: Path, samples: Samples) -> Array:
    session = start_session(path)
    return samples.join([batch[0] for batch in run_in_batches(session, [session.get_outputs()[0].name], samples)])
