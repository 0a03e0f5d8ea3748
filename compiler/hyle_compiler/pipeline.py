"""The whole way from an ONNX model to a bundle, on one page."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from hyle_bundle import PrivateKey, write_bundle
from hyle_bundle.manifest import Golden, Manifest
from hyle_substrates.profile import Profile, several_devices

from hyle_compiler import budget as budgets
from hyle_compiler import report as reports
from hyle_compiler.adapt.method import Augment, Budget
from hyle_compiler.adapting import Adaptation, adapt
from hyle_compiler.box_function import BoundTwin
from hyle_compiler.box_target import only_boxes
from hyle_compiler.boxes import attach_boxes, box_report, describe_boxes, take_twins
from hyle_compiler.build import Identity, build
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.cost import cost_as_json
from hyle_compiler.errors import ModelError, OptionError, OutputError, PlacementError
from hyle_compiler.evaluate import as_json, evaluate_folder, exact_body, run_batches
from hyle_compiler.exactness import check_ideal, tolerance_of
from hyle_compiler.fitting.graph import read_fit
from hyle_compiler.golden import GOLDEN, GOLDEN_SAMPLES
from hyle_compiler.layer_quality import LayerQuality
from hyle_compiler.lower_opset import lower_opset
from hyle_compiler.onramp import as_onnx
from hyle_compiler.partition import Partition, partition
from hyle_compiler.place import place
from hyle_compiler.read import check_stored, read_model, source_digest
from hyle_compiler.samples import InputSpec, Samples, load_samples
from hyle_compiler.scoring import choices, score
from hyle_compiler.self_test_bound import self_test_bound
from hyle_compiler.simplify import simplify
from hyle_compiler.stream.plan import STREAM_BYTES, weight_bytes
from hyle_compiler.tensors import PROGRAMMING

if TYPE_CHECKING:
    from hyle_compiler.attachment import Attachment

__all__ = ["Compiled", "Options", "compile_model", "input_specs"]

Array = np.ndarray[Any, Any]
VERIFY_AGES_S = (25.0, 86400.0, 31536000.0)
VERIFY_SAMPLES = 256
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
MODEL_VERSION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile.

    Attributes:
        name: Name of the model in the bundle; by default the file's.
        version: Version of the model, for people.
        counter: Monotonic counter; an agent refuses a lower one than it has.
        seed: Seed of everything drawn.
        compensation: How an agent corrects each device; by default what the profile recommends.
        copies: Devices a weight: how often each matrix is written into its own tiles at most; by default as often as
            the tiles have room and the converters have range.
        instances: Device instances that the compiler verifies on.
        adapt: Training method (`hyle methods`), or `auto`; none by default.
        train: What it learns from, an `.npz` file; by default the calibration samples.
        epochs: How long; by default as the method says.
        augment: How images may be varied without changing their label.
        checkpoint: Where the best weights so far are kept while it learns.
        device: An agent whose device is calibrated and adapted on, by the options of the remote driver: `address`, and
            `ca`, `certificate`, `key`; none by default.
        max_drop: Most accuracy that may be lost, as a fraction; None puts every layer that fits on physics.
        budget_ages_s: Ages in seconds at which `max_drop` is kept.
        devices: How many devices of the target the model is spread over; their tiles are counted through.
        most_replicas: On how many sets of tiles a layer may lie to keep `max_drop`; tried by doubling.
        black_boxes: Fitted twins, ONNX files of `hyle fit`, by the operator or node of the model that runs on them.
        stream: Compile layer by layer, in bounded memory; by default where the weights are more than 96 MiB.
    """

    name: str | None = None
    version: str = "1"
    counter: int = 1
    seed: int = 0
    compensation: Literal["none", "global", "column", "affine"] | None = None
    copies: int | None = None
    instances: int = 6
    adapt: str | None = None
    train: Path | None = None
    epochs: int | None = None
    augment: Augment = "none"
    checkpoint: Path | None = None
    device: Mapping[str, str] | None = None
    max_drop: float | None = None
    budget_ages_s: tuple[float, ...] = (86400.0,)
    most_replicas: int = 4
    devices: int = 1
    black_boxes: Mapping[str, Path] = field(default_factory=dict)
    stream: bool | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A written bundle: its path, digest, manifest and report."""

    path: Path
    digest: str
    manifest: Manifest
    report: dict[str, Any]


def compile_model(
    model_path: Path,
    calibration: Path,
    profile: Profile,
    profile_text: bytes,
    out: Path,
    options: Options | None = None,
    key: PrivateKey | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Compiled:
    """Compile a model for a substrate and write the bundle, whole or not at all.

    Args:
        model_path: An ONNX model, opset 13 or newer, or a program that `torch.export.save` wrote.
        calibration: An `.npz` file of samples.
        profile: The target.
        profile_text: The target's TOML, which travels in the bundle.
        out: The bundle to write.
        options: See `Options`.
        key: Signs the bundle.
        progress: Told what is being done.

    Raises:
        CallerError: The model, the samples, the target or the output cannot be used; says why and what to do.
    """
    options = options or Options()
    _check_options(options)
    profile = several_devices(profile, options.devices)
    if out.is_dir() or not out.parent.is_dir():
        raise OutputError(f"{out} cannot be written.", remedy="Give the path of a file in a folder that exists.")
    with tempfile.TemporaryDirectory(prefix="hyle-") as scratch:
        return _compile(Path(scratch), model_path, calibration, profile, profile_text, out, options, key, progress)


def _check_options(options: Options) -> None:
    """Refuse before any work what would be refused at the end."""
    for word, value, least in (
        ("seed", options.seed, 0),
        ("counter", options.counter, 0),
        ("instances", options.instances, 1),
        ("devices", options.devices, 1),
        ("replicas", options.most_replicas, 1),
        ("epochs", 1 if options.epochs is None else options.epochs, 1),
    ):
        if value < least:
            raise OptionError(f"--{word} {value} is too small.", remedy=f"Give {least} or more.")
    for word, text, pattern in (("name", options.name, MODEL_NAME), ("version", options.version, MODEL_VERSION)):
        if text is not None and not re.fullmatch(pattern, text):
            raise OptionError(
                f"{text!r} is no {word} for a bundle.",
                remedy="Use letters, digits, '.', '_' and '-' (a version also '+'), a letter or digit first.",
            )


def _compile(
    folder: Path,
    model_path: Path,
    calibration: Path,
    profile: Profile,
    profile_text: bytes,
    out: Path,
    options: Options,
    key: PrivateKey | None,
    progress: Callable[[str], None],
) -> Compiled:
    progress("reading the model")
    source = as_onnx(model_path, folder)
    digest = source_digest_checked(model_path)
    twins = {name: BoundTwin.of(*read_fit(path)) for name, path in options.black_boxes.items()}
    raw = read_model(source, physical=True, stored=False)
    large = weight_bytes(raw) > STREAM_BYTES if options.stream is None else options.stream
    if not large:
        check_stored(raw)
    model = _prepared(raw, profile, twins)
    samples = load_samples(calibration, input_specs(model))
    parts = only_boxes(partition(model, stored=large), profile)
    if not parts.physical and not describe_boxes(model):
        reasons = "; ".join(f"{d.node}: {d.reason}" for d in parts.digital) or "it has no MatMul, Gemm or Conv"
        raise PlacementError(
            f"No layer of {model_path.name} fits {profile.name}: {reasons}.",
            remedy="Give a model with constant weights.",
        )
    if large:
        return _streamed(model_path, model, parts, samples, profile, profile_text, out, options, digest, key, progress)
    fresh = partial(_fresh, source, profile, twins)
    parts, budget = _budgeted(fresh, model, parts, samples, profile, options, progress)
    name = options.name or _default_name(model_path)
    with _attached(parts, profile, name, options, progress) as attached:
        if attached is not None and options.compensation is None:
            options = replace(options, compensation="affine")
        parts, adaptation = _adapted(folder, model, parts, samples, profile, options, progress, attached)
        identity = _identity(name, options, digest, clip=bool(budget and budget["chosen"]["clipped"]))
        tolerance = tolerance_of(model)
        measure = None if attached is None else partial(attached.calibrate, profile=profile)
        built = build(folder, model, parts.physical, samples, profile, identity, progress, measure)
        lowered, exact, calibrated = built.lowered, built.exact, built.calibrated
        manifest = msgspec.structs.replace(built.manifest, devices=options.devices)
        verified, report = _verify(
            folder, manifest, profile, samples, exact, calibrated, parts, options, progress, attached, tolerance
        )
        report |= {"cost": cost_as_json(verified, profile)}
        report |= {"adaptation": adaptation} if adaptation else {}
        report |= {"budget": budget} if budget else {}
        report |= {"black_boxes": box_report(verified.boxes)} if verified.boxes else {}
        if attached is not None:
            verified = attached.signed(verified, adaptation.get("method", "calibrate"))
            report |= {"device": attached.as_json()}
    files = {name: folder / name for name in (PROGRAMMING, GOLDEN)} | lowered.files
    return _write(folder, verified, report, profile_text, files, out, key, progress)


def _streamed(
    model_path: Path,
    model: ir.Model,
    parts: Partition,
    samples: Samples,
    profile: Profile,
    profile_text: bytes,
    out: Path,
    options: Options,
    digest: str,
    key: PrivateKey | None,
    progress: Callable[[str], None],
) -> Compiled:
    """Compile layer by layer, on the output's disk."""
    from hyle_compiler.stream.compile import compile_streamed

    if options.max_drop is not None or options.adapt is not None or options.device is not None or options.black_boxes:
        raise ModelError(
            f"{model_path.name} is compiled layer by layer (--stream, or more than {STREAM_BYTES >> 20} MiB of "
            "weights), without an accuracy budget, training, black boxes or a device in the loop.",
            remedy="Leave these options out, or give --stream never on a machine with memory for the whole model.",
        )
    identity = _identity(options.name or _default_name(model_path), options, digest)
    with tempfile.TemporaryDirectory(prefix=f".{out.name[:100]}-", dir=out.parent) as scratch:
        folder = Path(scratch)
        verified, report, files = compile_streamed(
            folder,
            model,
            parts,
            samples,
            input_specs(model),
            profile,
            identity,
            options.instances,
            VERIFY_AGES_S,
            progress,
        )
        verified = msgspec.structs.replace(verified, devices=options.devices)
        report |= {"cost": cost_as_json(verified, profile)}
        return _write(folder, verified, report, profile_text, files, out, key, progress)


def _write(
    folder: Path,
    manifest: Manifest,
    report: dict[str, Any],
    profile_text: bytes,
    files: dict[str, Path],
    out: Path,
    key: PrivateKey | None,
    progress: Callable[[str], None],
) -> Compiled:
    progress("drawing the report")
    contents = {
        "profile.toml": profile_text,
        "report.json": reports.write_json(report),
        "report.html": _page(report),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    progress("writing the bundle")
    bundle_digest = write_bundle(out, manifest, {**{name: folder / name for name in contents}, **files}, key)
    return Compiled(out, bundle_digest, manifest, report)


def _identity(name: str, options: Options, digest: str, clip: bool = False) -> Identity:
    return Identity(
        name,
        options.version,
        options.counter,
        options.seed,
        digest,
        options.copies,
        options.compensation,
        clip,
    )


def _page(report: dict[str, Any]) -> bytes:
    from hyle_compiler.page import render

    return render(report)


def _fresh(path: Path, profile: Profile, given: Mapping[str, BoundTwin]) -> ir.Model:
    return _prepared(read_model(path, physical=True), profile, given)


def _prepared(model: ir.Model, profile: Profile, given: Mapping[str, BoundTwin]) -> ir.Model:
    twins = take_twins(model, given)
    model = simplify(model)
    model = lower_opset(model) if profile.noise_codes or twins else model
    attach_boxes(model, twins)
    return model


def _budgeted(
    fresh: Callable[[], ir.Model],
    model: ir.Model,
    parts: Partition,
    samples: Samples,
    profile: Profile,
    options: Options,
    progress: Callable[[str], None],
) -> tuple[Partition, dict[str, Any]]:
    """Keep the accuracy budget, if there is one; the model is changed as the plan says."""
    if options.max_drop is None:
        return parts, {}
    question = budgets.Question(
        fresh,
        samples,
        profile,
        Identity("budget", "1", 1, options.seed, "0" * 64, options.copies, options.compensation),
        options.max_drop,
        options.budget_ages_s,
        options.instances,
        options.most_replicas,
        progress,
    )
    found = budgets.search(question)
    return budgets.apply(model, found.plan), budgets.as_json(found, question)


def _adapted(
    folder: Path,
    model: ir.Model,
    parts: Partition,
    samples: Samples,
    profile: Profile,
    options: Options,
    progress: Callable[[str], None],
    attached: Attachment | None,
) -> tuple[Partition, dict[str, Any]]:
    """Let the model learn to live in its matter, if it was asked for."""
    if options.adapt is None:
        return parts, {}
    wish = Adaptation(
        options.adapt,
        load_samples(options.train, input_specs(model)) if options.train else None,
        Budget(epochs=options.epochs),
        options.augment,
        options.checkpoint,
        None if attached is None else attached.driver,
    )
    if attached is not None:
        attached.learned = True
        progress = attached.counting(progress)
    return adapt(
        folder,
        model,
        parts.physical,
        samples,
        profile,
        wish,
        copies=options.copies,
        compensation=options.compensation or profile.compensation,
        seed=options.seed,
        progress=progress,
    )


def _attached(
    parts: Partition, profile: Profile, name: str, options: Options, progress: Callable[[str], None]
) -> AbstractContextManager[Attachment | None]:
    """The device that was asked for, leased while the context is open."""
    if options.device is None:
        return nullcontext()
    from hyle_compiler.attachment import attach

    tiles = sum(layer.tiles for layer in place(parts.physical, profile))
    purpose = f"calibrating {name}" if options.adapt is None else f"adapting {name} by {options.adapt}"
    return attach(options.device, profile, tiles, purpose, progress)


def source_digest_checked(path: Path) -> str:
    """Digest of the model file; ModelError if there is none."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", remedy="Give the path of an ONNX model.")
    return source_digest(path)


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The model's inputs; ModelError for one that is not a tensor of known rank."""
    specs = []
    for value in model.graph.inputs:
        if value.dtype is None or value.shape is None or not isinstance(value.type, ir.TensorType):
            raise ModelError(
                f"Input {value.name!r} is not a tensor of known type and rank.", remedy="Export with typed inputs."
            )
        shape = tuple(int(size) if isinstance(size, int) else None for size in value.shape)
        specs.append(InputSpec(str(value.name), np.dtype(value.dtype.numpy()), shape))
    if not specs:
        raise ModelError("The model has no inputs.", remedy="Export it with its inputs.")
    return tuple(specs)


def _default_name(path: Path) -> str:
    stem = path.parent.name if path.stem == "model" else path.stem
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-") or "model"


def _verify(
    folder: Path,
    manifest: Manifest,
    profile: Profile,
    samples: Samples,
    exact: dict[str, Array],
    calibrated: Sequence[Calibrated],
    parts: Partition,
    options: Options,
    progress: Callable[[str], None],
    attached: Attachment | None,
    tolerance: float,
) -> tuple[Manifest, dict[str, Any]]:
    """Hold the twin against the float model; the manifest gets its self-test bound, the report its figures."""
    first = manifest.outputs[0].name
    if first not in exact:
        raise ModelError(
            f"The first axis of output {first!r} does not count samples.",
            remedy="Export the model with samples first in its inputs and its first output.",
        )
    answers = exact[first]
    some = samples.head(min(VERIFY_SAMPLES, len(answers)))
    count = len(some)
    metric = "top-1" if some.labels is not None else "agreement"
    labels = choices(answers[:count]) if some.labels is None else some.labels
    progress("verifying on the exact twin")
    perfect = exact_body(folder, manifest, profile, fused=False)
    nominal = run_batches(perfect, some, first)
    if profile.substrate == "ideal" and not profile.adc.levels:
        check_ideal(nominal, answers[:count], tolerance)
    ageless = profile.substrate == "ideal" and not profile.adc.levels
    ages = (0.0,) if ageless else VERIFY_AGES_S
    instances = 1 if ageless and not manifest.boxes else options.instances
    seeds = range(options.seed, options.seed + instances)
    quality = LayerQuality(folder, perfect, some, ages[len(ages) // 2])
    evaluation = evaluate_folder(
        folder,
        manifest,
        profile,
        some,
        labels,
        metric=metric,
        ages_s=ages,
        seeds=list(seeds),
        progress=progress,
        watch=quality.watch,
    )
    report = reports.build_report(
        manifest=manifest,
        profile=profile,
        calibrated=calibrated,
        quality=quality,
        digital=parts.digital,
        float_score=score(answers[:count], labels),
        exact_score=score(nominal, labels),
        evaluation=as_json(evaluation),
    )
    golden = Golden(min(GOLDEN_SAMPLES, len(answers)), *self_test_bound(evaluation, fitted=bool(manifest.boxes)))
    manifest = msgspec.structs.replace(manifest, golden=golden)
    if attached is not None:
        progress("running the compiled model on the device")
        young = float(np.mean(evaluation.ages[0].residuals))
        manifest = attached.prove(folder, manifest, some, labels, young)
    return manifest, report
