"""Give every value of a graph its type, where shape inference does not know the operator that makes it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from hyle_compiler.activations import float_session

__all__ = ["type_values"]

OTHER_WORDS = {"float": "FLOAT", "double": "DOUBLE"}


def type_values(model: ir.Model, folder: Path) -> None:
    """Ask onnxruntime, which knows its own operators, for the types that the main graph lacks.

    A segment's inputs need them, and exporters and quantisers leave them out.

    Args:
        model: The float model; its untyped values get types.
        folder: Where a copy of it may be written.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    untyped = [value for node in model.graph for value in node.outputs if value.name and value.type is None]
    if not untyped:
        return
    known = {output.name: output.type for output in float_session(model, untyped, folder).get_outputs()}
    for value in untyped:
        value.type = _type(known.get(str(value.name), ""))


def _type(text: str) -> ir.TypeProtocol | None:
    """What onnxruntime writes as `tensor(int64)`; None for what is no tensor."""
    word = text.removeprefix("tensor(").removesuffix(")")
    name = OTHER_WORDS.get(word, word.upper())
    return ir.TensorType(ir.DataType[name]) if name in ir.DataType.__members__ else None
