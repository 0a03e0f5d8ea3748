"""What a model takes, as samples are held against it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hyle_compiler.errors import ModelError
from hyle_compiler.samples import InputSpec
from hyle_compiler.segments import DATATYPES

__all__ = ["input_specs"]


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The model's inputs; ModelError for one that is not a tensor of known rank, or a type that no client knows."""
    specs = []
    for value in model.graph.inputs:
        if value.dtype is None or value.shape is None or not isinstance(value.type, ir.TensorType):
            raise ModelError(
                f"Input {value.name!r} is not a tensor of known type and rank.", remedy="Export with typed inputs."
            )
        shape = tuple(int(size) if isinstance(size, int) else None for size in value.shape)
        specs.append(InputSpec(str(value.name), np.dtype(value.dtype.numpy()), shape))
        if specs[-1].dtype == object:
            raise ModelError(
                f"Input {value.name!r} is text, which no samples can hold.",
                remedy="Cut the step from words to numbers off, and give the rest of the model the numbers.",
            )
    for value in (*model.graph.inputs, *model.graph.outputs):
        _check_type(value)
    if not specs:
        raise ModelError("The model has no inputs.", remedy="Export it with its inputs.")
    return tuple(specs)


def _check_type(value: ir.Value) -> None:
    if value.dtype is not None and value.dtype.numpy().name not in DATATYPES:
        raise ModelError(
            f"{value.name!r} is {value.dtype.name.lower()}, which neither samples nor requests can hold.",
            remedy="Export the model with inputs and outputs of float32 or float16; inside it may compute as it does.",
        )
