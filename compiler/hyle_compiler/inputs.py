"""What a model takes, as samples are held against it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hyle_compiler.errors import ModelError
from hyle_compiler.samples import InputSpec

__all__ = ["input_specs"]


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
