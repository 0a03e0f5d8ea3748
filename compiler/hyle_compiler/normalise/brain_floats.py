"""Do in float32 what is done in bfloat16: onnxruntime has hardly any operator of that type."""

from __future__ import annotations

import onnx_ir as ir

from hyle_compiler.normalise.edit import Edit

__all__ = ["compute_brain_floats"]

BRAIN = ir.DataType.BFLOAT16
# These take values of any type as they are, or hand them to nodes that are looked at by themselves.
AS_THEY_ARE = {"Cast", "Identity", "If", "Loop", "Scan"}


def compute_brain_floats(model: ir.Model) -> None:
    """Cast what an operator takes to float32 and what it gives back, so that each result rounds as it did."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    for node in nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type in AS_THEY_ARE:
            continue
        if any(value is not None and value.dtype is BRAIN for value in node.inputs):
            _replace(model, node)


def _replace(model: ir.Model, node: ir.Node) -> None:
    edit = Edit(model, node)
    inputs = [
        edit.op("Cast", value, to=ir.DataType.FLOAT) if value is not None and value.dtype is BRAIN else value
        for value in node.inputs
    ]
    kept = {name: attribute.value for name, attribute in node.attributes.items()}
    count = len(node.outputs)
    made = edit.op(node.op_type, *inputs, outputs=count, name=node.name or "", **kept)
    given = [made] if count == 1 else made
    kinds = [value.dtype for value in node.outputs]
    pairs = zip(given, kinds, strict=True)
    edit.finish(*[edit.op("Cast", value, to=BRAIN) if kind is BRAIN else value for value, kind in pairs])
