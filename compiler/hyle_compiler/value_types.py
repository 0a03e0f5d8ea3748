"""Give every value of a graph its type, where shape inference does not know the operator that makes it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from hyle_compiler.activations import float_session

__all__ = ["type_values"]

MOST_KEPT_BYTES = 1 << 12
OTHER_WORDS = {"float": "FLOAT", "double": "DOUBLE"}


def type_values(model: ir.Model, folder: Path, *, weightless: bool = False) -> None:
    """Ask onnxruntime, which knows its own operators, for the types that the main graph lacks.

    A segment's inputs need them, and exporters and quantisers leave them out.

    Args:
        model: The float model; its untyped values get types.
        folder: Where a copy of it may be written.
        weightless: Copy no weights of more than 4 KiB, which may be more than there is memory for.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    untyped = [value for node in model.graph for value in node.outputs if value.name and value.type is None]
    if not untyped:
        return
    asked = _without_weights(model) if weightless else model
    known = {output.name: output.type for output in float_session(asked, untyped, folder).get_outputs()}
    for value in untyped:
        value.type = _type(known.get(str(value.name), ""))


def _without_weights(model: ir.Model) -> ir.Model:
    """A copy that is fed its large weights, whose types and shapes are all that types of values follow from."""
    graph = model.graph.clone()
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= MOST_KEPT_BYTES:
            continue
        del graph.initializers[name]
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        value.const_value = None
        if value not in graph.inputs:
            graph.inputs.append(value)
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def _type(text: str) -> ir.TypeProtocol | None:
    """What onnxruntime writes as `tensor(int64)`; None for what is no tensor."""
    word = text.removeprefix("tensor(").removesuffix(")")
    name = OTHER_WORDS.get(word, word.upper())
    return ir.TensorType(ir.DataType[name]) if name in ir.DataType.__members__ else None
