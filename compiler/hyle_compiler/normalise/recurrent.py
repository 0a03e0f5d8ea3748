"""Write LSTM, GRU and RNN as a product over the whole sequence and a Scan whose body holds the recurrent product.

Equations: the ONNX operators' own (opset 14), gates in their order there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.cells import CELLS, DEFAULTS, Body, Cell, activation_names
from hyle_compiler.normalise.edit import Array, Edit, attribute, constant, nodes_of

__all__ = ["RECURRENT", "reason_digital", "turn_recurrent"]

RECURRENT = ("LSTM", "GRU", "RNN")
DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
WORDS = ("forward", "reverse")


def turn_recurrent(model: ir.Model) -> None:
    """Rewrite every recurrent operator whose weights are constant float32; the others stay as they are."""
    for node in nodes_of(model, *RECURRENT):
        if reason_digital(node) is None:
            _replace(model, node)


def reason_digital(node: ir.Node) -> str | None:
    """Why a recurrent operator cannot be written as products and a Scan, or None."""
    known = [constant(_at(node, index)) for index in range(8)]
    if known[1] is None or known[2] is None:
        return "its weights are computed at run time"
    if known[1].dtype != np.float32 or known[2].dtype != np.float32 or _at(node, 0) is None:
        return f"its weights are of type {known[1].dtype}"
    for index, what in ((3, "bias"), (7, "peephole weights")):
        if _at(node, index) is not None and known[index] is None:
            return f"its {what} is computed at run time"
    for name, what in (
        ("clip", "it clips what its gates see"),
        ("input_forget", "its input and forget gates are coupled"),
        ("activation_alpha", "its activation functions have parameters"),
        ("activation_beta", "its activation functions have parameters"),
    ):
        if attribute(node, name, 0):
            return what
    unknown = set(activation_names(node)) - set(DEFAULTS)
    if unknown:
        return f"it has the activation function {min(unknown)}"
    return None


def _at(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _replace(model: ir.Model, node: ir.Node) -> None:
    edit = Edit(model, node)
    directions = DIRECTIONS[str(attribute(node, "direction", "forward"))]
    batch_first = int(attribute(node, "layout", 0)) == 1
    x: Any = node.inputs[0]
    x = edit.op("Transpose", x, perm=[1, 0, 2]) if batch_first else x
    mask = _mask(edit, x, _at(node, 4))
    made = [_direction(model, edit, node, x, mask, number, d, batch_first) for number, d in enumerate(directions)]
    outputs = []
    for place in range(len(node.outputs)):
        axis = 1 if place == 0 else 0
        parts = [edit.op("Unsqueeze", one[place], _ints(edit, axis)) for one in made]
        joined = parts[0] if len(parts) == 1 else edit.op("Concat", *parts, axis=axis)
        if batch_first:
            joined = edit.op("Transpose", joined, perm=[2, 0, 1, 3] if place == 0 else [1, 0, 2])
        outputs.append(joined)
    edit.finish(*outputs)


def _ints(edit: Edit, *values: int) -> ir.Value:
    return edit.constant(np.array(values, dtype=np.int64))


def _mask(edit: Edit, x: ir.Value, lengths: ir.Value | None) -> ir.Value | None:
    """Which steps are within each sample's length: steps by batch by 1."""
    if lengths is None:
        return None
    steps = edit.op("Squeeze", edit.op("Slice", edit.op("Shape", x), _ints(edit, 0), _ints(edit, 1)), _ints(edit, 0))
    zero, one = edit.constant(np.array(0, dtype=np.int64)), edit.constant(np.array(1, dtype=np.int64))
    row = edit.op("Unsqueeze", edit.op("Range", zero, steps, one), _ints(edit, 1, 2))
    limit = edit.op("Unsqueeze", edit.op("Cast", lengths, to=ir.DataType.INT64), _ints(edit, 0, 2))
    mask: ir.Value = edit.op("Less", row, limit)
    mask.type = ir.TensorType(ir.DataType.BOOL)
    return mask


def _direction(
    model: ir.Model,
    edit: Edit,
    node: ir.Node,
    x: ir.Value,
    mask: ir.Value | None,
    number: int,
    backwards: int,
    batch_first: bool,
) -> list[ir.Value]:
    """One direction: its outputs (steps by batch by hidden; then final states, batch by hidden)."""
    weight, recurrent = (_constant(node, index)[number] for index in (1, 2))
    hidden = recurrent.shape[1]
    count = CELLS[node.op_type].gates
    bias = _constant(node, 3)[number] if _at(node, 3) is not None else np.zeros(2 * count * hidden, dtype=np.float32)
    name = f"{node.name or node.outputs[0].name}_{WORDS[backwards]}"
    cell = Cell(
        node,
        hidden,
        recurrent,
        bias[count * hidden :],
        None if _at(node, 7) is None else _constant(node, 7)[number],
        activation_names(node)[number * CELLS[node.op_type].functions :],
        name,
    )
    driven = edit.op("MatMul", x, edit.constant(weight.T), name=f"{name}_input")
    driven = edit.op("Add", driven, edit.constant(bias[: count * hidden] + cell.outer_bias))
    states = [_initial(edit, node, x, 5 + i, number, hidden, batch_first) for i in range(CELLS[node.op_type].states)]
    body = Body(edit.stem(f"{backwards}"), edit.constant)
    graph = cell.graph(body, mask is not None, model.opset_imports.get("", 21))
    sequences = [driven] if mask is None else [driven, mask]
    made: list[ir.Value] = edit.op(
        "Scan",
        *states,
        *sequences,
        outputs=len(states) + 1,
        name=f"{name}_steps",
        body=graph,
        num_scan_inputs=len(sequences),
        scan_input_directions=[backwards] * len(sequences),
        scan_output_directions=[backwards],
    )
    return [made[-1], *made[:-1]]


def _constant(node: ir.Node, index: int) -> Array:
    found = constant(_at(node, index))
    if found is None:
        raise ValueError(f"input {index} of {node.name} is no constant")
    return found


def _initial(
    edit: Edit, node: ir.Node, x: ir.Value, index: int, number: int, hidden: int, batch_first: bool
) -> ir.Value:
    """An initial state, batch by hidden: given, or zero."""
    given = _at(node, index)
    made: ir.Value
    if given is None:
        batch = edit.op("Slice", edit.op("Shape", x), _ints(edit, 1), _ints(edit, 2))
        shape = edit.op("Concat", batch, _ints(edit, hidden), axis=0)
        made = edit.op("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, dtype=np.float32)))
        made.type = ir.TensorType(ir.DataType.FLOAT)
        return made
    axis = 1 if batch_first else 0
    made = edit.op("Gather", given, edit.constant(np.array(number, dtype=np.int64)), axis=axis)
    return made
