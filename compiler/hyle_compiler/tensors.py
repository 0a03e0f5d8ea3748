"""Which tensors a bundle holds, and where the graphs' external data finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_bundle import TensorSpec, tensor_layout, write_tensors
from hyle_bundle.manifest import Layer
from hyle_bundle.tensor_spec import DTYPES
from hyle_runtime.placement import operator_layout

from hyle_compiler.calibrate import Calibrated

__all__ = ["PROGRAMMING", "Makers", "Stored", "digital_weights", "layer_tensors", "store", "write_stored"]

PROGRAMMING = "programming.safetensors"
INLINE_BYTES = 1024
FILE_TYPES = tuple(ir.DataType.from_numpy(t) for word, t in DTYPES.items() if word != "BF16")
Array = np.ndarray[Any, Any]
Makers = dict[str, Callable[[], Array]]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of `programming.safetensors`: how to make it when it is written, and its place in the file in bytes."""

    spec: TensorSpec
    make: Callable[[], Array]
    offset: int

    def external(self, dtype: ir.DataType) -> ir.ExternalTensor:
        """The tensor as external data of an ONNX graph."""
        shape = ir.Shape(self.spec.shape)
        return ir.ExternalTensor(PROGRAMMING, self.offset, self.spec.nbytes, dtype, shape=shape, name=self.spec.name)


def layer_tensors(layer: Layer, calibrated: Calibrated, noise: float) -> Makers:
    """The tensors of one physical layer, by name; `noise` scales its read noise."""
    makers: Makers = {
        layer.full_scale: partial(np.array, calibrated.full_scale, dtype=np.float32),
        layer.noise: partial(np.array, noise, dtype=np.float32),
        layer.offset: partial(np.asarray, calibrated.offset, dtype=np.float32),
    }
    for index, (block, placed) in enumerate(zip(layer.blocks, calibrated.placed.blocks, strict=True)):
        makers[block.levels] = partial(operator_layout, layer, index, placed.levels)
        makers[block.gain] = partial(np.asarray, calibrated.gain[index], dtype=np.float32)
    return makers


def digital_weights(graph: ir.Graph, prefix: str = "digital/") -> Makers:
    """Initializers that are large enough to be kept outside of the graph; they are renamed with `prefix`.

    The others are taken into the graph, wherever the model kept them.
    """
    makers: Makers = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or name.startswith(prefix):
            continue
        if tensor.nbytes < INLINE_BYTES or tensor.dtype not in FILE_TYPES:
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.tensor(np.array(tensor.numpy()), tensor.dtype, name=name)
            continue
        value.name = prefix + name
        makers[prefix + name] = tensor.numpy
    return makers


def store(makers: Mapping[str, Callable[[], Array]]) -> dict[str, Stored]:
    """Give every tensor its place in the file."""
    specs = {name: TensorSpec.of(name, np.asarray(make())) for name, make in makers.items()}
    layout = tensor_layout(specs.values())
    return {name: Stored(spec, makers[name], layout[name][0]) for name, spec in specs.items()}


def write_stored(path: Path, tensors: Iterable[Stored]) -> None:
    """Write all tensors, made one at a time."""
    write_tensors(path, [(tensor.spec, tensor.make) for tensor in tensors])
