"""Write a grouped convolution as a few dense ones, several groups packed block-diagonally into each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import STEP, Array, Edit, attribute, constant, nodes_of, step_of

__all__ = ["LEAST_PACKED", "MOST_PARTS", "split_convolution_groups"]

LEAST_PACKED = 8
MOST_PARTS = 16


def split_convolution_groups(model: ir.Model) -> None:
    """Split the channels, convolve each part, and join.

    A part holds at least 8 groups where there are more than 8, and there are at most 16 parts: fewer groups a part
    leave fewer cells empty, more groups a part need fewer tiles.
    """
    for node in nodes_of(model, "Conv"):
        group = int(attribute(node, "group", 1))
        weight = constant(node.inputs[1])
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        computed = len(node.inputs) > 2 and node.inputs[2] is not None and bias is None
        if group == 1 or weight is None or weight.dtype != np.float32 or computed or weight.shape[0] % group:
            continue
        if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
            continue
        _replace(model, node, weight, bias, group)


def _replace(model: ir.Model, node: ir.Node, weight: Array, bias: Array | None, group: int) -> None:
    edit = Edit(model, node)
    packed = _packed(group)
    outputs, inputs = weight.shape[0] // group, weight.shape[1]
    step = step_of(node.inputs[1]) if node.inputs[1] is not None else None
    spans = [(start, min(start + packed, group)) for start in range(0, group, packed)]
    sizes = np.array([(stop - start) * inputs for start, stop in spans], dtype=np.int64)
    parts = [node.inputs[0]]
    if len(spans) > 1:
        parts = edit.op("Split", node.inputs[0], edit.constant(sizes), outputs=len(spans), axis=1)
    kept = {name: a.value for name, a in node.attributes.items() if name != "group"}
    made = []
    for number, ((start, stop), part) in enumerate(zip(spans, parts, strict=True)):
        rows = slice(start * outputs, stop * outputs)
        dense = edit.constant(_diagonal(weight[rows], stop - start))
        if step is not None:
            dense.meta[STEP] = step[rows] if step.shape[0] > 1 else step
        given = [] if bias is None else [edit.constant(bias[rows])]
        made.append(edit.op("Conv", part, dense, *given, name=f"{node.name or 'Conv'}_part{number}", **kept))
    edit.finish(made[0] if len(made) == 1 else edit.op("Concat", *made, axis=1))


def _packed(group: int) -> int:
    if group <= LEAST_PACKED:
        return 1
    return max(LEAST_PACKED, -(-group // MOST_PARTS))


def _diagonal(weight: Array, groups: int) -> Array:
    """Weights of several groups as one dense kernel with zeros between groups."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    dense = np.zeros((weight.shape[0], groups * inputs, *weight.shape[2:]), dtype=weight.dtype)
    for g in range(groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        dense[rows, g * inputs : (g + 1) * inputs] = weight[rows]
    return dense
