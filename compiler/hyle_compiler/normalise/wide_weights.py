"""Do products with weights of float16, bfloat16 or float64 in float32, which is what converters take."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hyle_compiler.matrices import STORED_BYTES
from hyle_compiler.normalise.edit import Edit, constant, nodes_of

__all__ = ["widen"]

OTHER_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN")


def widen(model: ir.Model) -> None:
    """Cast the operands of products with such constants to float32, and their results back.

    A large matrix stays as it is behind its Cast, and is read from there part by part.
    """
    for node in nodes_of(model, *PRODUCTS):
        types = [None if value is None else value.dtype for value in node.inputs]
        if not any(kind in OTHER_FLOATS for kind in types):
            continue
        known = [constant(value) for value in node.inputs]
        weighty = [i for i, array in enumerate(known) if array is not None and array.ndim > 1]
        kind = next((types[i] for i in weighty if types[i] in OTHER_FLOATS), None)
        if kind is None or all(array is not None for array in known):
            continue
        _replace(model, node, kind)


def _replace(model: ir.Model, node: ir.Node, kind: ir.DataType) -> None:
    edit = Edit(model, node)
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        array = constant(value)
        if value is None or value.dtype not in (kind, None):
            inputs.append(value)
        elif array is not None and (array.ndim != 2 or array.nbytes < STORED_BYTES):
            inputs.append(edit.constant(array.astype(np.float32)))
        else:
            inputs.append(edit.op("Cast", value, to=ir.DataType.FLOAT))
    kept = {name: a.value for name, a in node.attributes.items()}
    count = len(node.outputs)
    made = edit.op(node.op_type, *inputs, outputs=count, name=node.name or "", **kept)
    made = [made] if count == 1 else made
    edit.finish(*[edit.op("Cast", value, to=kind) for value in made])
