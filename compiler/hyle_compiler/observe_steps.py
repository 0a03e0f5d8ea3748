"""Keep what layers inside loops and branches see: run the model step by step, the physical layers in float."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_runtime.steps import Steps
from hyle_substrates.host import patches

from hyle_compiler.activations import Collector, Observed, feeds, float_session, joined
from hyle_compiler.errors import CalibrationError
from hyle_compiler.partition import Candidate
from hyle_compiler.samples import Samples
from hyle_compiler.segments import Cut, feed_controls
from hyle_compiler.stackable import answers_samples_apart

__all__ = ["observe_steps"]

Array = np.ndarray[Any, Any]


def observe_steps(
    folder: Path, model: ir.Model, layers: Sequence[Candidate], samples: Samples, seed: int
) -> tuple[dict[str, Observed], dict[str, Array], bool]:
    """Run all samples.

    Args:
        folder: Where segments are written.
        model: The float model; where the host hands constants to control flow, a node makes them from now on.
        layers: Its physical layers.
        samples: What it is asked.
        seed: Seed of what is drawn.

    Returns:
        What each layer sees, the model's outputs, and whether it answers each sample by itself; no outputs where the
        samples are one feed.

    Raises:
        CalibrationError: The model refuses the samples.
    """
    physical = {layer.node: layer.name for layer in layers}
    feed_controls(model, physical)
    matrices = {layer.name: np.asarray(layer.matrix) for layer in layers}
    by_name = {layer.name: layer for layer in layers}
    collectors = {
        layer.name: Collector(layer, len(samples), np.random.default_rng([seed, i])) for i, layer in enumerate(layers)
    }

    def run_layer(name: str, known: dict[str, Any]) -> None:
        layer = by_name[name]
        x = np.asarray(known[str(layer.x.name)])
        collectors[name].add(x)
        known[str(layer.y.name)] = _product(layer, matrices[name], x)

    exact = float_session(model, [], folder)
    cut = Cut(model, physical, folder / "float-segments", _save)
    cut.folder.mkdir()
    steps = Steps(cut.folder, cut.steps(), run_layer)
    names = [str(value.name) for value in model.graph.outputs]
    batches = []
    given = feeds(exact, samples)
    for feed in given:
        try:
            steps.run(feed)
            batches.append(exact.run(names, feed))
        except CalibrationError:
            raise
        except Exception as error:
            text = (str(error).splitlines() or [""])[0][:300]
            raise CalibrationError(
                f"The model does not take these samples: {text}", remedy="Check shapes and values."
            ) from error
    steps.close()
    seen = {name: collector.finish() for name, collector in collectors.items()}
    if samples.whole:
        return seen, {}, False
    return (
        seen,
        joined(names, batches, given, samples),
        answers_samples_apart(exact, model.graph, samples),
    )


def _product(layer: Candidate, matrix: Array, x: Array) -> Array:
    if layer.geometry is None:
        made: Array = np.matmul(x, matrix) + layer.bias
        return made
    rows = patches(x, layer.geometry) @ matrix + layer.bias
    shaped = rows.reshape(x.shape[0], *layer.geometry.output_shape(x.shape[2:]), -1)
    return np.ascontiguousarray(np.moveaxis(shaped, -1, 1))


def _save(model: ir.Model, path: Path) -> None:
    ir.save(model, path, external_data=f"{path.name}.data")
