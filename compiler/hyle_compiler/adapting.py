"""The pass that adapts: chooses and checks a method, runs it, and writes what was learned into the float model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from hyle_bundle.scoring import classes_of
from hyle_substrates.driver import Driver
from hyle_substrates.profile import Profile

from hyle_compiler.activations import float_session, observe
from hyle_compiler.adapt.goal import Goal, floating_outputs, goal_of
from hyle_compiler.adapt.method import Adapted, AdaptError, Augment, Budget, Task
from hyle_compiler.adapt.registry import checked, choose
from hyle_compiler.calibrate import Calibrated, calibrate
from hyle_compiler.partition import LEARNED_RANGE, Candidate, Partition, partition
from hyle_compiler.place import place
from hyle_compiler.samples import Samples

__all__ = ["Adaptation", "adapt", "calibrated_layers", "find_goal", "write_back"]

DEFAULT_BUDGET = Budget()
MOST_SEEN = 500


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How to adapt.

    Attributes:
        method: A method's name, or `auto`.
        samples: What to learn from; the calibration samples where None.
        budget: When to stop.
        augment: How images may be varied without changing their label.
        checkpoint: Where the best parameters so far are kept.
        driver: The device in the loop.
    """

    method: str = "auto"
    samples: Samples | None = None
    budget: Budget = DEFAULT_BUDGET
    augment: Augment = "none"
    checkpoint: Path | None = None
    driver: Driver | None = None


def adapt(
    folder: Path,
    model: ir.Model,
    layers: tuple[Candidate, ...],
    calibration: Samples,
    profile: Profile,
    wish: Adaptation,
    *,
    copies: int | None,
    compensation: Literal["none", "global", "column", "affine"],
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Partition, dict[str, Any]]:
    """Adapt a simplified model in place.

    Args:
        folder: Scratch space.
        model: The simplified float model; its weights are replaced.
        layers: Its physical layers.
        calibration: The calibration samples.
        profile: The target.
        wish: Method, samples and limits.
        copies: Devices a weight, as for the compilation.
        compensation: How the agent will correct the device.
        seed: Seed of everything drawn.
        progress: Told what is being done.

    Returns:
        The layers of the adapted model, and what happened as a JSON document.

    Raises:
        AdaptError: The method does not fit, says which ones do; or the samples do not serve.
    """
    samples = calibration if wish.samples is None else wish.samples
    goal = find_goal(folder, model, samples)
    method_name, why = wish.method, "asked for"
    if method_name == "auto":
        device = wish.driver is not None
        method_name, why = choose(profile, labels=samples.labels is not None, samples=len(samples), device=device)
    method = checked(method_name, profile, labels=samples.labels is not None)
    if wish.augment != "none" and all(array.ndim != 4 for array in samples.arrays.values()):
        raise AdaptError("No input is a batch of images, which could be varied.", remedy="Leave out --augment.")
    progress(f"adapting by {method_name}: {why}")
    task = Task(
        model,
        calibrated_layers(folder, model, layers, calibration, profile, copies, seed),
        samples,
        goal,
        profile,
        compensation,
        seed,
        wish.budget,
        folder,
        wish.driver,
        wish.augment,
        wish.checkpoint,
        progress,
    )
    adapted = method.run(task)
    write_back(model, layers, adapted)
    return partition(model), _told(method_name, why, adapted)


def calibrated_layers(
    folder: Path,
    model: ir.Model,
    layers: tuple[Candidate, ...],
    samples: Samples,
    profile: Profile,
    copies: int | None,
    seed: int,
) -> tuple[Calibrated, ...]:
    """Place and calibrate the layers of a float model."""
    placed = place(layers, profile)
    session = float_session(model, [layer.x for layer in layers], folder)
    seen, _ = observe(session, layers, samples, seed)
    return tuple(calibrate(layer, seen[layer.layer.name], profile, copies, seed) for layer in placed)


def write_back(model: ir.Model, layers: tuple[Candidate, ...], adapted: Adapted) -> None:
    """Give every layer that was learned its new matrix and bias, in its operator's own layout, and its input range."""
    for layer in layers:
        if layer.name in adapted.ranges:
            layer.node.metadata_props[LEARNED_RANGE] = repr(adapted.ranges[layer.name])
        if layer.name not in adapted.matrices:
            continue
        matrix, bias = adapted.matrices[layer.name], adapted.biases[layer.name]
        if layer.node.op_type == "MatMul":
            _replace(model, layer, 1, matrix)
            if np.any(bias):
                _add_after(model, layer, bias)
            continue
        if layer.node.op_type == "Gemm":
            for name, value in (("transB", 0), ("alpha", 1.0), ("beta", 1.0)):
                layer.node.attributes.pop(name, None)
                layer.node.attributes.add(ir.Attr(name, _KINDS[type(value)], value))
            _replace(model, layer, 1, matrix)
        else:
            assert layer.geometry is not None
            _replace(model, layer, 1, matrix.T.reshape(matrix.shape[1], -1, *layer.geometry.kernel))
        _replace(model, layer, 2, bias)


_KINDS = {int: ir.AttributeType.INT, float: ir.AttributeType.FLOAT}


def _replace(model: ir.Model, layer: Candidate, index: int, array: Any) -> None:
    value = _constant(model, f"{layer.name}/adapted/{index}", array)
    if index >= len(layer.node.inputs):
        layer.node.resize_inputs(index + 1)
    layer.node.replace_input_with(index, value)


def _constant(model: ir.Model, name: str, array: Any) -> ir.Value:
    values = np.ascontiguousarray(array, dtype=np.float32)
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _add_after(model: ir.Model, layer: Candidate, bias: Any) -> None:
    """A MatMul has no bias: an Add behind it carries what was learned."""
    value = _constant(model, f"{layer.name}/adapted/2", bias)
    old = layer.node.outputs[0]
    add = ir.node("Add", [old, value], name=f"{layer.name}/adapted/add")
    add.outputs[0].shape, add.outputs[0].type = old.shape, old.type
    add.outputs[0].name = f"{old.name}/adapted"
    for user, index in list(old.uses()):
        if user is not add:
            user.replace_input_with(index, add.outputs[0])
    for position, output in enumerate(model.graph.outputs):
        if output is old:
            name = old.name
            old.name, add.outputs[0].name = f"{name}/before", name
            model.graph.outputs[position] = add.outputs[0]
    model.graph.insert_after(layer.node, add)


def find_goal(folder: Path, model: ir.Model, samples: Samples) -> Goal:
    """What a float model's answers to these samples should be.

    Raises:
        AdaptError: Nothing can be learnt from them, or their labels do not fit the answers.
    """
    if not samples.batched or not len(samples):
        remedy = "Give samples of a model all of whose inputs count samples along their first axis."
        raise AdaptError("There is nothing to learn from in batches.", remedy=remedy)
    if samples.labels is not None and samples.labels.shape[:1] != (len(samples),):
        what = f"Labels of the shape {samples.labels.shape} do not fit {len(samples)} samples."
        raise AdaptError(what, remedy="Give one class or number a sample, or one a position.")
    outputs, some = floating_outputs(model), samples.head(MOST_SEEN)
    answers = float_session(model, [], folder).run([output.name for output in outputs], dict(some.arrays))
    found = [np.asarray(answer) for answer in answers]
    labels = None if samples.labels is None else classes_of(found[0], samples.labels)
    return goal_of(outputs, found, len(some), labels)


def _told(name: str, why: str, adapted: Adapted) -> dict[str, Any]:
    return {
        "method": name,
        "why": why,
        "outcome": adapted.outcome,
        "passes": adapted.passes,
        "loss": adapted.loss,
        "history": list(adapted.history),
        "notes": list(adapted.notes),
    }
