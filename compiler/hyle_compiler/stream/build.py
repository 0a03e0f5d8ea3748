"""The walk: from a simplified model that does not fit in memory to the files of a bundle, each weight read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from hyle_bundle import TensorSpec, TensorWriter, write_tensors
from hyle_bundle.manifest import Layer, Manifest
from hyle_substrates.profile import Profile

from hyle_compiler.build import Identity, largest_inputs, manifest_of
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.golden import GOLDEN, GOLDEN_SAMPLES, golden_outputs
from hyle_compiler.lower import attach, cut, describe_layer, write_programs
from hyle_compiler.partition import Candidate
from hyle_compiler.place import lay_out
from hyle_compiler.stream.clock import Clock
from hyle_compiler.stream.plan import Plan, Variant, require_room
from hyle_compiler.stream.prepare import copy_digital, digital_tensors, layer_specs, located, mark, point
from hyle_compiler.stream.sampled_columns import ColumnError
from hyle_compiler.stream.walk import Walk
from hyle_compiler.tensors import PROGRAMMING
from hyle_compiler.value_types import type_values

__all__ = ["Streamed", "build_streamed"]

Array = np.ndarray[Any, Any]
TOLD_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """A model's files, and what the float model and its twins answered, a dictionary by output name each.

    Only outputs whose first axis counts samples are among the answers.

    `errors` are the layers' relative errors by name, seed and age, as the sampled columns give them.
    """

    manifest: Manifest
    files: dict[str, Path]
    calibrated: tuple[Calibrated, ...]
    answers: dict[Variant, dict[str, Array]]
    errors: dict[str, dict[tuple[int, float], ColumnError]]


def build_streamed(
    folder: Path,
    model: ir.Model,
    layers: Sequence[Candidate],
    plan: Plan,
    profile: Profile,
    identity: Identity,
    progress: Callable[[str], None],
) -> Streamed:
    """Place, calibrate, write and verify a model layer by layer; the model is used up.

    Args:
        folder: Where the files go, on the disk of the bundle.
        model: The simplified model, its large weights external.
        layers: Its operators that go on physics.
        plan: Samples and twins.
        profile: The target.
        identity: Names, seed and choices.
        progress: Told what is being done, how much is done and how long the rest will take.

    Raises:
        CallerError: The model, the samples or the target cannot be used, or the disk is too small.
    """
    type_values(model, folder, weightless=True)
    spans = mark(model, lay_out(layers, profile))
    digital = digital_tensors(model)
    specs = [*digital, *(spec for one in spans for spec in layer_specs(one, profile))]
    needed = sum(spec.nbytes for spec in specs)
    progress(f"writing {needed / 1e9:.2f} GB; the disk of {folder.parent} must hold that twice")
    require_room(folder, 2 * needed)
    with TensorWriter(folder / PROGRAMMING, specs) as writer:
        clock = Clock(needed, progress)
        for spec, tensor in digital.items():
            clock.step(f"copying {tensor.name}" if spec.nbytes >= TOLD_BYTES else "", spec.nbytes)
            copy_digital(writer, spec.name, tensor)
        tensors = located(specs, writer.layout)
        point(model, tensors)
        files, steps = cut(model, folder)
        walk = Walk(folder, steps, plan, profile, identity, writer, clock, {one.layer.name: one for one in spans})
        answers = _by_sample(walk.run([str(value.name) for value in model.graph.outputs]), plan)
    progress("writing the graphs")
    calibrated = tuple(walk.calibrated[one.layer.name] for one in spans)
    described = tuple(map(describe_layer, calibrated))
    attach(model, calibrated, profile, tensors)
    files |= write_programs(model, described, folder)
    _write_golden(folder, plan, answers[plan.variants[0]], described, walk)
    manifest = manifest_of(model, profile, identity, described)
    manifest = msgspec.structs.replace(manifest, steps=steps, largest_inputs=largest_inputs(plan.samples))
    return Streamed(manifest, files, calibrated, answers, walk.errors)


def _by_sample(answers: dict[Variant, dict[str, Array]], plan: Plan) -> dict[Variant, dict[str, Array]]:
    """The outputs whose first axis counts samples; others (a mean over the batch) differ with how many were run."""
    names = [
        name
        for name in answers[plan.variants[0]]
        if all(found[name].shape[:1] == (plan.count(variant),) for variant, found in answers.items())
    ]
    return {variant: {name: found[name] for name in names} for variant, found in answers.items()}


def _write_golden(folder: Path, plan: Plan, exact: dict[str, Array], layers: Sequence[Layer], walk: Walk) -> None:
    """The golden file, from what the walk left in `folder`."""
    count = min(len(plan.samples), GOLDEN_SAMPLES)
    arrays = {f"input/{name}": array[:count] for name, array in plan.samples.arrays.items()}
    arrays |= golden_outputs({name: array[:count] for name, array in exact.items()})
    makers: list[tuple[TensorSpec, Any]] = [
        (TensorSpec.of(name, array), np.ascontiguousarray(array)) for name, array in arrays.items()
    ]
    for layer in layers:
        for name, path in zip(
            (layer.probes, layer.probe_scales, layer.responses), walk.probes[layer.name], strict=True
        ):
            makers.append((TensorSpec.of(name, np.load(path, mmap_mode="r")), partial(np.load, path)))
    write_tensors(folder / GOLDEN, makers)
