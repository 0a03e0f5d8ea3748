"""From a simplified model and what it sees to the files that a body runs: graphs, tensors, golden vectors, manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from hyle_bundle.manifest import Golden, Layer, Manifest
from hyle_substrates.profile import Profile

from hyle_compiler.activations import Observed, feeds, float_session, joined, observe
from hyle_compiler.boxes import box_tensors, describe_boxes
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.calibrate_layers import calibrate_layers
from hyle_compiler.golden import GOLDEN, golden_count, write_golden
from hyle_compiler.lower import Lowered, attach, describe_layer, lower
from hyle_compiler.matrices import only_feeds
from hyle_compiler.observe_steps import observe_steps
from hyle_compiler.partition import Candidate
from hyle_compiler.place import place
from hyle_compiler.samples import Samples
from hyle_compiler.segments import tensor_info
from hyle_compiler.stackable import answers_samples_apart
from hyle_compiler.tensors import PROGRAMMING, digital_weights, layer_tensors, store, write_stored
from hyle_compiler.value_types import type_values

__all__ = ["Built", "Identity", "build", "largest_inputs", "manifest_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a compilation is and how it is done: what the manifest says of the model, and the choices of the caller.

    `copies` and `compensation` are None where the compiler or the profile chooses. `clip_weights`: see
    `calibrate_layers`.
    """

    name: str
    version: str
    counter: int
    seed: int
    source_sha256: str
    copies: int | None = None
    compensation: Literal["none", "global", "column", "affine"] | None = None
    clip_weights: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A model's files, written to a folder, and the float model's outputs by name.

    Only outputs whose first axis counts samples; none where the samples are one feed.
    """

    manifest: Manifest
    lowered: Lowered
    calibrated: tuple[Calibrated, ...]
    exact: dict[str, Array]


def build(
    folder: Path,
    model: ir.Model,
    layers: Sequence[Candidate],
    samples: Samples,
    profile: Profile,
    identity: Identity,
    progress: Callable[[str], None] = lambda text: None,
    measure: Callable[[Calibrated, Observed], Calibrated] | None = None,
) -> Built:
    """Place, calibrate and write a model; the model is used up.

    Args:
        folder: Where the files go.
        model: The simplified model.
        layers: Its operators that go on physics; with none the whole model is one digital segment.
        samples: What it is calibrated on.
        profile: The target.
        identity: Names, seed and choices.
        progress: Told what is being done.
        measure: Calibrates a layer further, on an attached device.

    Raises:
        CallerError: The model, the samples or the target cannot be used; says why and what to do.
    """
    type_values(model, folder)
    placed = place(layers, profile)
    progress(f"observing {len(placed)} layers on {len(samples)} samples")
    seen, exact, stackable = _observe(folder, model, layers, samples, identity.seed)
    progress("calibrating converters")
    calibrated = calibrate_layers(
        placed, seen, profile, copies=identity.copies, seed=identity.seed, clip=identity.clip_weights
    )
    if measure is not None:
        progress("calibrating on the device")
        calibrated = tuple(measure(layer, seen[layer.placed.layer.name]) for layer in calibrated)
    described, boxes = tuple(map(describe_layer, calibrated)), describe_boxes(model)
    progress("writing the graphs")
    manifest = msgspec.structs.replace(manifest_of(model, profile, identity, described), boxes=boxes)
    lowered = _write_graphs(folder, model, described, calibrated, profile)
    if samples.whole:
        write_golden(folder / GOLDEN, Samples({}, None), {}, described, calibrated)
    else:
        first = {
            name: array[: golden_count(manifest.inputs, len(array), apart=samples.apart)]
            for name, array in exact.items()
        }
        write_golden(folder / GOLDEN, samples, first, described, calibrated)
    manifest = msgspec.structs.replace(
        manifest, steps=lowered.steps, largest_inputs=largest_inputs(samples), stackable=stackable
    )
    return Built(manifest, lowered, calibrated, exact)


def largest_inputs(samples: Samples) -> dict[str, float]:
    """Largest magnitude of each float input."""
    floats = {
        name: array
        for name, array in samples.arrays.items()
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size
    }
    return {name: float(np.abs(array).max()) for name, array in floats.items()}


def _observe(
    folder: Path, model: ir.Model, layers: Sequence[Candidate], samples: Samples, seed: int
) -> tuple[dict[str, Observed], dict[str, Array], bool]:
    if samples.whole and not layers:
        return {}, {}, False
    if any(layer.node.graph is not model.graph for layer in layers):
        return observe_steps(folder, model, layers, samples, seed)
    session = float_session(model, [layer.x for layer in layers], folder)
    seen, batches = observe(session, layers, samples, seed)
    if samples.whole:
        return seen, {}, False
    stackable = answers_samples_apart(session, model.graph, samples)
    names = [str(value.name) for value in model.graph.outputs]
    return seen, joined(names, batches, feeds(session, samples), samples), stackable


def manifest_of(model: ir.Model, profile: Profile, identity: Identity, layers: Sequence[Layer]) -> Manifest:
    """The manifest but for steps, self-test and files."""
    return Manifest(
        format="hyle-bundle/1",
        name=identity.name,
        version=identity.version,
        counter=identity.counter,
        compiler=f"hyle {package_version('hyle')}",
        seed=identity.seed,
        source_sha256=identity.source_sha256,
        target=profile.name,
        substrate=profile.substrate,
        compensation=identity.compensation or profile.compensation,
        inputs=tuple(map(tensor_info, model.graph.inputs)),
        outputs=tuple(map(tensor_info, model.graph.outputs)),
        layers=tuple(layers),
        steps=(),
        golden=Golden(0, 0.0, ""),
        files={},
    )


def _write_graphs(
    folder: Path, model: ir.Model, layers: Sequence[Layer], calibrated: Sequence[Calibrated], profile: Profile
) -> Lowered:
    physical = {layer.placed.layer.node for layer in calibrated}
    makers = digital_weights(model.graph)
    for name in list(makers):
        if only_feeds(model.graph.initializers[name], physical):
            del makers[name]
    for layer, measured in zip(layers, calibrated, strict=True):
        makers |= layer_tensors(layer, measured, profile.noise_factor)
    makers |= box_tensors(model, describe_boxes(model))
    tensors = store(makers)
    write_stored(folder / PROGRAMMING, tensors.values())
    attach(model, calibrated, profile, tensors)
    return lower(model, layers, folder)
