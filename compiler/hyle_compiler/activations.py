"""Run the float model on the calibration samples and keep what each physical layer sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from hyle_runtime.sessions import REQUANTISING
from hyle_substrates.host import patches_at, sample_scale

from hyle_compiler.errors import CalibrationError, ModelError
from hyle_compiler.partition import Candidate
from hyle_compiler.samples import Samples

__all__ = [
    "BATCH",
    "Collector",
    "Observed",
    "feeds",
    "float_session",
    "joined",
    "observe",
    "perturbed",
    "run_in_batches",
    "start_session",
]

Float32s = np.ndarray[Any, np.dtype[np.float32]]
PROBES = 256
QUANTILE_POOL = 65536
BATCH = 32
MOST_PARTS = 4
FLOAT = "float.onnx"


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What a layer sees: vectors (vectors by rows), the largest magnitude of each sample, a pool of magnitudes."""

    vectors: Float32s
    scales: Float32s
    magnitudes: Float32s
    largest: float
    positions: float


def float_session(model: ir.Model, extra: Sequence[ir.Value], folder: Path) -> ort.InferenceSession:
    """Start onnxruntime on the float model with additional outputs.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    names = [str(value.name) for value in extra]
    known = {str(value.name) for value in (*model.graph.outputs, *model.graph.inputs)}
    try:
        graph = model.graph.clone()
    except Exception as error:
        raise ModelError(
            "The graph is not consistent: a node reads what nothing makes.", remedy="Check the model with onnx.checker."
        ) from error
    view = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    by_name = ir.convenience.create_value_mapping(view.graph)
    view.graph.outputs.extend(by_name[name] for name in dict.fromkeys(names) if name not in known)
    path = folder / FLOAT
    ir.save(view, path, external_data="float.data")
    return start_session(path)


def perturbed(folder: Path, samples: Samples, output: str) -> np.ndarray[Any, Any] | None:
    """The answers of the model of `float_session` as rounding may change them; None if there is no such model.

    Each operator runs as it stands, on inputs that are one step of their type larger.
    """
    path = folder / FLOAT
    if not path.is_file():
        return None
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    arrays = {n: np.nextafter(a, a.dtype.type(np.inf)) if a.dtype.kind == "f" else a for n, a in samples.arrays.items()}
    samples = replace(samples, arrays=arrays)
    return samples.join([batch[0] for batch in run_in_batches(start_session(path, options), [output], samples)])


def start_session(path: Path, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """Start onnxruntime on a file; ModelError if it refuses."""
    options = options or ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=REQUANTISING
        )
    except Exception as error:
        text = (str(error).splitlines() or [""])[0][:300]
        remedy = "Check the model with onnx.checker."
        if "NOT_IMPLEMENTED" in text:
            remedy = (
                "It lacks that operator of this opset and type: export with opset 13 or newer, in float32 or float16."
            )
        raise ModelError(f"onnxruntime refuses the model: {text}", remedy=remedy) from error


def run_in_batches(
    session: ort.InferenceSession, outputs: Sequence[str], samples: Samples, batch: int = BATCH
) -> list[list[np.ndarray[Any, Any]]]:
    """Run all samples; a list of batches, each with one array an output.

    Raises:
        CalibrationError: The model refuses the samples.
    """
    return [_run(session, outputs, feed) for feed in feeds(session, samples, batch)]


def feeds(session: ort.InferenceSession, samples: Samples, batch: int = BATCH) -> list[dict[str, Any]]:
    """Cut samples into batches that the model takes; what does not fill a batch of fixed size is left out.

    Raises:
        CalibrationError: They do not fill one.
    """
    if not samples.batched:
        return list(samples.batches(batch))
    fixed = [shape[0] for shape in (i.shape for i in session.get_inputs()) if shape and isinstance(shape[0], int)]
    size = max(1, min(fixed, default=batch))
    whole = samples.head(len(samples) // size * size) if fixed else samples
    if not len(whole):
        raise CalibrationError(
            f"The model wants batches of {size}; there are {len(samples)} samples.", remedy="Give more samples."
        )
    return list(whole.batches(size))


def _run(session: ort.InferenceSession, outputs: Sequence[str], feed: Mapping[str, Any]) -> list[Any]:
    try:
        return list(session.run(list(outputs), dict(feed)))
    except Exception as error:
        text = (str(error).splitlines() or [""])[0][:300]
        raise CalibrationError(
            f"The model does not take these samples: {text}", remedy="Check shapes and values."
        ) from error


def observe(
    session: ort.InferenceSession, layers: Sequence[Candidate], samples: Samples, seed: int
) -> tuple[dict[str, Observed], list[list[np.ndarray[Any, Any]]]]:
    """Collect the vectors of every layer, and the model's own outputs in batches."""
    inputs = {i.name for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    collectors = {
        layer.name: Collector(layer, len(samples), np.random.default_rng([seed, i])) for i, layer in enumerate(layers)
    }
    outputs: list[list[np.ndarray[Any, Any]]] = []
    for feed in feeds(session, samples):
        values = dict(zip(names, _run(session, names, feed), strict=True))
        outputs.append([values[o] for o in names])
        for layer in layers:
            x = feed[str(layer.x.name)] if str(layer.x.name) in inputs else values[str(layer.x.name)]
            collectors[layer.name].add(x)
    return {name: collector.finish() for name, collector in collectors.items()}, outputs


def joined(
    names: Sequence[str], batches: Sequence[Sequence[Any]], given: Sequence[Mapping[str, Any]], samples: Samples
) -> dict[str, Any]:
    """Outputs over all batches, by name: those whose first axis counts samples (not, say, a recurrent state's).

    Args:
        names: The outputs.
        batches: For each batch one array an output.
        given: The batches.
        samples: What was cut into them.
    """
    found = {}
    if samples.apart:
        for place, name in enumerate(names):
            parts = [batch[place] for batch in batches]
            if all(isinstance(part, np.ndarray) for part in parts) and len({part.shape for part in parts}) == 1:
                found[name] = np.stack(parts)
        return found
    count = sum(len(next(iter(feed.values()))) for feed in given)
    for place, name in enumerate(names):
        parts = [batch[place] for batch in batches]
        if all(isinstance(part, np.ndarray) and part.ndim for part in parts):
            fits = len({part.shape[1:] for part in parts}) == 1 and sum(map(len, parts)) == count
            if fits:
                found[name] = np.concatenate(parts)
    return found


class Collector:
    """Draws an even share of a layer's vectors from every batch.

    Args:
        layer: The layer.
        samples: Samples that it will see in all.
        rng: Draws the share.
    """

    def __init__(self, layer: Candidate, samples: int, rng: np.random.Generator, probes: int = PROBES) -> None:
        self._layer, self._samples, self._rng, self._probes = layer, samples, rng, probes
        self._vectors: list[Float32s] = []
        self._scales: list[Float32s] = []
        self._magnitudes: list[Float32s] = []
        self._largest = 0.0
        self._count = 0
        self._thinned = 1

    def add(self, x: Float32s) -> None:
        """Take the layer's input for some samples; CalibrationError if it is not finite."""
        if not x.size:
            return
        if not np.isfinite(x).all():
            raise CalibrationError(
                f"The input of layer {self._layer.name!r} is NaN or infinite on the samples.",
                remedy="Check the samples and the model.",
            )
        geometry = self._layer.geometry
        scale = sample_scale(x, geometry)
        lead = x.shape[:-1] if geometry is None else (x.shape[0], *geometry.output_shape(x.shape[2:]))
        total = int(np.prod(lead))
        share = min(total, -(-self._probes * len(x) // (self._samples * self._thinned)) + 1)
        picks = np.sort(self._rng.choice(total, share, replace=False))
        if geometry is None:
            self._vectors.append(x.reshape(-1, x.shape[-1])[picks])
            self._scales.append(scale.reshape(-1)[picks])
        else:
            self._vectors.append(patches_at(x, geometry, picks))
            self._scales.append(scale.reshape(-1)[picks // (total // len(x))])
        flat = np.abs(x).reshape(-1)
        room = max(1, QUANTILE_POOL * len(x) // (self._samples * self._thinned))
        self._magnitudes.append(flat if flat.size <= room else self._rng.choice(flat, room, replace=False))
        self._largest = max(self._largest, float(flat.max(initial=0.0)))
        self._count += total
        if len(self._vectors) > MOST_PARTS * self._samples and sum(map(len, self._magnitudes)) > 4 * QUANTILE_POOL:
            self._thin()

    def _thin(self) -> None:
        """Forget every other part: a layer inside a loop sees many for each sample."""
        self._vectors, self._scales, self._magnitudes = self._vectors[::2], self._scales[::2], self._magnitudes[::2]
        self._thinned *= 2

    def finish(self) -> Observed:
        """What was seen, in a size that does not depend on how much it was."""
        if not self._vectors:
            nothing = np.zeros((1, self._layer.matrix.shape[0]), dtype=np.float32)
            return Observed(nothing, np.ones(1, dtype=np.float32), nothing.reshape(-1), 0.0, 0.0)
        vectors, scales = np.concatenate(self._vectors), np.concatenate(self._scales)
        if len(vectors) > self._probes:
            keep = np.sort(self._rng.choice(len(vectors), self._probes, replace=False))
            vectors, scales = vectors[keep], scales[keep]
        magnitudes = np.concatenate(self._magnitudes)
        return Observed(vectors, scales, magnitudes, self._largest, self._count / self._samples)
