"""The whole way from an ONNX model to a bundle, on one page."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnx_ir as ir
from hyle_bundle import PrivateKey, write_bundle
from hyle_bundle.manifest import Manifest
from hyle_substrates.profile import Profile, several_devices

from hyle_compiler import budget as budgets
from hyle_compiler import report as reports
from hyle_compiler.adapt.method import Budget
from hyle_compiler.adapting import Adaptation, adapt
from hyle_compiler.box_function import BoundTwin
from hyle_compiler.box_target import only_boxes
from hyle_compiler.boxes import attach_boxes, box_report, describe_boxes, take_twins
from hyle_compiler.build import build
from hyle_compiler.cost import cost_as_json
from hyle_compiler.errors import ModelError, OutputError, PlacementError
from hyle_compiler.exactness import tolerance_of
from hyle_compiler.fitting.graph import read_fit
from hyle_compiler.golden import GOLDEN
from hyle_compiler.inputs import input_specs
from hyle_compiler.lower_opset import lower_opset
from hyle_compiler.matrices import require_finite
from hyle_compiler.older_opset import check_raised, raised
from hyle_compiler.onramp import as_onnx
from hyle_compiler.options import Compiled, Options, Setting, check_options, identity
from hyle_compiler.partition import Partition, partition
from hyle_compiler.place import place
from hyle_compiler.read import check_stored, read_model, source_digest
from hyle_compiler.samples import load_samples
from hyle_compiler.simplify import simplify
from hyle_compiler.stream.plan import STREAM_BYTES, weight_bytes
from hyle_compiler.tensors import PROGRAMMING
from hyle_compiler.verify import VERIFY_AGES_S, verify

if TYPE_CHECKING:
    from hyle_compiler.attachment import Attachment

__all__ = ["Compiled", "Options", "compile_model"]

Files = dict[str, Path]


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
    check_options(options)
    profile = several_devices(profile, options.devices)
    if out.is_dir() or not out.parent.is_dir():
        raise OutputError(f"{out} cannot be written.", remedy="Give the path of a file in a folder that exists.")
    with tempfile.TemporaryDirectory(prefix="hyle-") as scratch:
        return _compile(Path(scratch), model_path, calibration, profile, profile_text, out, options, key, progress)


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
    given = as_onnx(model_path, folder)
    source = raised(given, folder)
    digest = source_digest(model_path)
    twins = {name: BoundTwin.of(*read_fit(path)) for name, path in options.black_boxes.items()}
    raw = read_model(source, physical=True, stored=False)
    large = weight_bytes(raw) > STREAM_BYTES if options.stream is None else options.stream
    if not large:
        check_stored(raw)
    model = _prepared(raw, profile, twins)
    samples = load_samples(calibration, input_specs(model))
    if source != given:
        check_raised(given, source, samples)
    parts = only_boxes(partition(model, stored=large), profile)
    if not parts.physical and not describe_boxes(model):
        reasons = "; ".join(f"{d.node}: {d.reason}" for d in parts.digital) or "it has no MatMul, Gemm or Conv"
        raise PlacementError(
            f"No layer of {model_path.name} fits {profile.name}: {reasons}.",
            remedy="Give a model with constant weights.",
        )
    for candidate in () if large else parts.physical:
        require_finite(candidate.name, candidate.matrix)
        require_finite(candidate.name, candidate.bias)
    setting = Setting(profile, samples, options, options.name or _default_name(model_path), digest, progress)
    if large:
        # On the output's disk, which is the one that was said to have room.
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:100]}-", dir=out.parent) as scratch:
            folder = Path(scratch)
            manifest, report, files = _streamed(folder, model_path, model, parts, setting)
            return _write(folder, manifest, report, profile_text, files, out, key, progress)
    manifest, report, files = _whole(folder, partial(_fresh, source, profile, twins), model, parts, setting)
    return _write(folder, manifest, report, profile_text, files, out, key, progress)


def _whole(
    folder: Path, fresh: Callable[[], ir.Model], model: ir.Model, parts: Partition, setting: Setting
) -> tuple[Manifest, dict[str, Any], Files]:
    """Compile a model that is in memory: budget, device, training, build, verification."""
    profile, progress = setting.profile, setting.progress
    parts, budget = _budgeted(fresh, model, parts, setting)
    with _attached(parts, setting) as attached:
        if attached is not None and setting.options.compensation is None:
            setting = replace(setting, options=replace(setting.options, compensation="affine"))
        parts, adaptation = _adapted(folder, model, parts, setting, attached)
        named = identity(setting, clip=bool(budget and budget["chosen"]["clipped"]))
        tolerance = tolerance_of(model)
        measure = None if attached is None else partial(attached.calibrate, profile=profile)
        built = build(folder, model, parts.physical, setting.samples, profile, named, progress, measure)
        manifest = msgspec.structs.replace(built.manifest, devices=setting.options.devices)
        verified, report = verify(folder, manifest, setting, built, parts, tolerance, attached)
        report |= {"cost": cost_as_json(verified, profile)}
        report |= {"adaptation": adaptation} if adaptation else {}
        report |= {"budget": budget} if budget else {}
        report |= {"black_boxes": box_report(verified.boxes)} if verified.boxes else {}
        if attached is not None:
            verified = attached.signed(verified, adaptation.get("method", "calibrate"))
            report |= {"device": attached.as_json()}
    return verified, report, {name: folder / name for name in (PROGRAMMING, GOLDEN)} | built.lowered.files


def _streamed(
    folder: Path, model_path: Path, model: ir.Model, parts: Partition, setting: Setting
) -> tuple[Manifest, dict[str, Any], Files]:
    """Compile layer by layer, in bounded memory."""
    from hyle_compiler.stream.compile import compile_streamed

    options = setting.options
    if options.max_drop is not None or options.adapt is not None or options.device is not None or options.black_boxes:
        raise ModelError(
            f"{model_path.name} is compiled layer by layer (--stream, or more than {STREAM_BYTES >> 20} MiB of "
            "weights), without an accuracy budget, training, black boxes or a device in the loop.",
            remedy="Leave these options out, or give --stream never on a machine with memory for the whole model.",
        )
    if setting.samples.apart:
        raise ModelError(
            f"{model_path.name} is compiled layer by layer, on samples along the first axis of every input.",
            remedy="Give --stream never on a machine with memory for the whole model.",
        )
    verified, report, files = compile_streamed(
        folder,
        model,
        parts,
        setting.samples,
        input_specs(model),
        setting.profile,
        identity(setting),
        options.instances,
        VERIFY_AGES_S,
        setting.progress,
    )
    verified = msgspec.structs.replace(verified, devices=options.devices)
    return verified, report | {"cost": cost_as_json(verified, setting.profile)}, files


def _write(
    folder: Path,
    manifest: Manifest,
    report: dict[str, Any],
    profile_text: bytes,
    files: Files,
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
    fresh: Callable[[], ir.Model], model: ir.Model, parts: Partition, setting: Setting
) -> tuple[Partition, dict[str, Any]]:
    """Keep the accuracy budget, if there is one; the model is changed as the plan says."""
    options = setting.options
    if options.max_drop is None:
        return parts, {}
    question = budgets.Question(
        fresh,
        setting.samples,
        setting.profile,
        identity(replace(setting, name="budget", digest="0" * 64)),
        options.max_drop,
        options.budget_ages_s,
        options.instances,
        options.most_replicas,
        setting.progress,
    )
    found = budgets.search(question)
    return budgets.apply(model, found.plan), budgets.as_json(found, question)


def _adapted(
    folder: Path, model: ir.Model, parts: Partition, setting: Setting, attached: Attachment | None
) -> tuple[Partition, dict[str, Any]]:
    """Let the model learn to live in its matter, if it was asked for."""
    options, progress = setting.options, setting.progress
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
        setting.samples,
        setting.profile,
        wish,
        copies=options.copies,
        compensation=options.compensation or setting.profile.compensation,
        seed=options.seed,
        progress=progress,
    )


def _attached(parts: Partition, setting: Setting) -> AbstractContextManager[Attachment | None]:
    """The device that was asked for, leased while the context is open."""
    options = setting.options
    if options.device is None:
        return nullcontext()
    from hyle_compiler.attachment import attach

    tiles = sum(layer.tiles for layer in place(parts.physical, setting.profile))
    purpose = f"calibrating {setting.name}" if options.adapt is None else f"adapting {setting.name} by {options.adapt}"
    return attach(options.device, setting.profile, tiles, purpose, setting.progress)


def _default_name(path: Path) -> str:
    stem = path.parent.name if path.stem == "model" else path.stem
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip("._-") or "model"
