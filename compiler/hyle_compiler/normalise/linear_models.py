"""Turn the linear models of `ai.onnx.ml`, as scikit-learn's converter writes them, into a product and the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, Edit

__all__ = ["turn_linear_models"]

DOMAIN = "ai.onnx.ml"
AFTER = {"NONE": "", "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}


def turn_linear_models(model: ir.Model) -> None:
    """Replace LinearClassifier (integer labels, a row of coefficients for each) and LinearRegressor."""
    for graph in model.graphs():
        for node in list(graph):
            if node.domain != DOMAIN or node.op_type not in ("LinearClassifier", "LinearRegressor"):
                continue
            found = _coefficients(node)
            after = AFTER.get(_word(node, "post_transform", "NONE"))
            if found is None or after is None:
                continue
            if node.op_type == "LinearRegressor" and not after:
                _replace(model, node, *found, "", None)
            labels = np.array(_values(node, "classlabels_ints"), dtype=np.int64)
            if node.op_type == "LinearClassifier" and len(labels) == found[0].shape[1]:
                _replace(model, node, *found, after, labels)


def _coefficients(node: ir.Node) -> tuple[Array, Array] | None:
    """Matrix, inputs by outputs, and bias; None where they do not fit together."""
    weights = np.array(_values(node, "coefficients"), dtype=np.float32)
    bias = np.array(_values(node, "intercepts"), dtype=np.float32)
    labels = len(_values(node, "classlabels_ints"))
    targets = labels or (int(node.attributes["targets"].value) if "targets" in node.attributes else 1)
    if not targets or not weights.size or weights.size % targets:
        return None
    bias = bias if bias.size else np.zeros(targets, dtype=np.float32)
    return (weights.reshape(targets, -1).T, bias) if bias.size == targets else None


def _replace(model: ir.Model, node: ir.Node, matrix: Array, bias: Array, after: str, labels: Array | None) -> None:
    edit = Edit(model, node)
    x: Any = node.inputs[0]
    if x.dtype != ir.DataType.FLOAT:
        x = edit.op("Cast", x, to=ir.DataType.FLOAT)
    scores = edit.op("MatMul", x, edit.constant(matrix), name=node.name or "")
    scores = edit.op("Add", scores, edit.constant(bias))
    best = edit.op("ArgMax", scores, axis=-1, keepdims=0) if labels is not None else None
    scores = edit.op(after, scores) if after else scores
    if labels is None:
        edit.finish(scores)
        return
    edit.finish(edit.op("Gather", edit.constant(labels), best, axis=0), scores)


def _values(node: ir.Node, name: str) -> Any:
    return node.attributes[name].value if name in node.attributes else ()


def _word(node: ir.Node, name: str, default: str) -> str:
    value = node.attributes[name].value if name in node.attributes else default
    return value.decode() if isinstance(value, bytes) else str(value)
