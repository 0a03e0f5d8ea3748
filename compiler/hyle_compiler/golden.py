"""The golden file: self-test vectors with the exact model's answers, and the probes that measure each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hyle_bundle import TensorSpec, write_tensors
from hyle_bundle.manifest import Layer, TensorInfo
from hyle_runtime.residual import are_labels, held

from hyle_compiler.calibrate import Calibrated
from hyle_compiler.samples import Samples

__all__ = ["GOLDEN", "GOLDEN_SAMPLES", "fixed_batch", "golden_count", "golden_labels", "golden_outputs", "write_golden"]

GOLDEN = "golden.safetensors"
GOLDEN_SAMPLES = 32
Array = np.ndarray[Any, Any]


def fixed_batch(inputs: Sequence[TensorInfo], *, apart: bool = False) -> int:
    """Samples that the model takes at once; 1 where their number is free or each is a feed of its own (`apart`)."""
    return 1 if apart else max([1, *(info.shape[0] for info in inputs if info.shape)])


def golden_count(inputs: Sequence[TensorInfo], available: int, *, apart: bool = False) -> int:
    """How many samples the self-test has: whole batches where these are of a fixed size."""
    size = fixed_batch(inputs, apart=apart)
    return min(available, max(size, GOLDEN_SAMPLES // size * size))


def golden_outputs(exact: Mapping[str, Array]) -> dict[str, Array]:
    """The exact answers that the self-test holds a device to, by their names in the golden file."""
    return {f"output/{name}": exact[name] for name in held(exact)}


def golden_labels(exact: Mapping[str, Array], samples: int) -> int:
    """How many labels the self-test of the first `samples` compares; 0 where it compares numbers."""
    arrays = [array[:samples] for array in golden_outputs(exact).values()]
    return sum(array.size for array in arrays) if are_labels(arrays) else 0


def write_golden(
    path: Path, samples: Samples, exact: Mapping[str, Array], layers: Sequence[Layer], calibrated: Sequence[Calibrated]
) -> None:
    """Write inputs, exact outputs (samples first, as many as `exact` has) and every layer's probes.

    Outputs that no residual is taken of (labels beside scores, text) are left out.
    """
    count = min((len(array) for array in exact.values()), default=0)
    tensors: dict[str, Array] = {f"input/{name}": array[:count] for name, array in samples.arrays.items()}
    tensors |= golden_outputs(exact)
    for layer, measured in zip(layers, calibrated, strict=True):
        tensors[layer.probes] = measured.codes
        tensors[layer.probe_scales] = measured.scales
        tensors[layer.responses] = measured.wanted
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_tensors(path, [(TensorSpec.of(name, array), array) for name, array in arrays.items()])
