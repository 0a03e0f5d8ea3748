"""Bring a model to the newest opset whose random operators onnxruntime has, for the noise in its bodies."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from hyle_compiler.errors import ModelError

__all__ = ["NEWEST_WITH_NOISE", "lower_opset"]

NEWEST_WITH_NOISE = 21


def lower_opset(model: ir.Model, newest: int = NEWEST_WITH_NOISE) -> ir.Model:
    """Relabel a model of a newer opset where every node means the same in the older one.

    Later revisions of most operators only take more types. A node is refused where the older opset does not have the
    operator, or not the attribute or input that the node uses. (onnxruntime 1.32 has no RandomNormalLike of opset 22.)

    Raises:
        ModelError: An operator exists only in the newer opset.
    """
    version = model.opset_imports.get("", 0)
    if version <= newest:
        return model
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if node.domain in ("", "ai.onnx") and not _same(node, version, newest):
                raise ModelError(
                    f"Node {node.name!r} is a {node.op_type} of opset {version}; noise needs opset {newest}.",
                    remedy=f"Export with opset {newest} or older.",
                )
    model.opset_imports[""] = newest
    for function in model.functions.values():
        if "" in function.opset_imports:
            function.opset_imports[""] = min(function.opset_imports[""], newest)
    return model


def _same(node: ir.Node, version: int, newest: int) -> bool:
    now = onnx.defs.get_schema(node.op_type, version, "")
    if now.since_version <= newest:
        return True
    if not onnx.defs.has(node.op_type, newest, ""):
        return False
    then = onnx.defs.get_schema(node.op_type, newest, "")
    fits = len(node.inputs) <= then.max_input and len(node.outputs) <= then.max_output
    return fits and set(node.attributes) <= set(then.attributes)
