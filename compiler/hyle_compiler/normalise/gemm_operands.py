"""Turn a Gemm until its constant is the right operand and its bias one row."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Edit, attribute, constant, nodes_of

__all__ = ["turn_gemm_operands"]


def turn_gemm_operands(model: ir.Model) -> None:
    """Transpose the variable operand where needed, and add a bias that is computed or differs from row to row apart."""
    for node in nodes_of(model, "Gemm"):
        left, right = constant(node.inputs[0]), constant(node.inputs[1])
        weight = left if right is None else right
        if weight is None or weight.dtype != np.float32 or (left is not None and right is not None):
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        known = constant(bias)
        plain = bias is None or (known is not None and (known.ndim < 2 or known.shape[0] == 1))
        if left is not None or int(attribute(node, "transA", 0)) or not plain:
            _replace(model, node, left is not None, bias)


def _replace(model: ir.Model, node: ir.Node, on_left: bool, bias: ir.Value | None) -> None:
    edit = Edit(model, node)
    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    turned = [bool(attribute(node, "transA", 0)), bool(attribute(node, "transB", 0))]
    x: Any = node.inputs[1 if on_left else 0]
    weight: Any = constant(node.inputs[0 if on_left else 1])
    matrix = weight.T if turned[0 if on_left else 1] else weight
    flip = turned[1] != on_left if on_left else turned[0]
    x = edit.op("Transpose", x, perm=[1, 0]) if flip else x
    matrix = (matrix.T if on_left else matrix) * np.float32(alpha)
    y = edit.op("MatMul", x, edit.constant(matrix), name=node.name or "")
    y = edit.op("Transpose", y, perm=[1, 0]) if on_left else y
    if bias is not None:
        scaled = bias if beta == 1.0 else edit.op("Mul", bias, edit.constant(np.float32(beta)))
        y = edit.op("Add", y, scaled)
    edit.finish(y)
