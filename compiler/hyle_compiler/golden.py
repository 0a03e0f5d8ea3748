"""The golden file: self-test vectors with the exact model's answers, and the probes that measure each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hyle_bundle import TensorSpec, write_tensors
from hyle_bundle.manifest import Layer, TensorInfo

from hyle_compiler.calibrate import Calibrated
from hyle_compiler.samples import Samples

__all__ = ["GOLDEN", "GOLDEN_SAMPLES", "fixed_batch", "golden_count", "write_golden"]

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


def write_golden(
    path: Path, samples: Samples, exact: Mapping[str, Array], layers: Sequence[Layer], calibrated: Sequence[Calibrated]
) -> None:
    """Write inputs, exact outputs (samples first, as many as `exact` has) and every layer's probes.

    Outputs that are text are left out: they have no residual.
    """
    count = min((len(array) for array in exact.values()), default=0)
    tensors: dict[str, Array] = {f"input/{name}": array[:count] for name, array in samples.arrays.items()}
    tensors |= {f"output/{name}": array for name, array in exact.items() if array.dtype.kind not in "OSU"}
    for layer, measured in zip(layers, calibrated, strict=True):
        tensors[layer.probes] = measured.codes
        tensors[layer.probe_scales] = measured.scales
        tensors[layer.responses] = measured.wanted
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_tensors(path, [(TensorSpec.of(name, array), array) for name, array in arrays.items()])
