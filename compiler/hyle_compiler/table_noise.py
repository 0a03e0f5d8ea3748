"""Let the bodies of a twin read their noise from a table instead of drawing it.

A drawn deviate costs about 7 ns in onnxruntime, a read one a twentieth of that. program.onnx goes on drawing; only
twin.onnx, for which an agent supplies the table (`hyle_substrates.deviates`, times the noise of a read), is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_bundle.manifest import Layer
from hyle_runtime.placement import DEVIATES
from hyle_substrates.deviates import RUN, RUNS

__all__ = ["read_noise_from_table"]


def read_noise_from_table(
    model: ir.Model, layers: Mapping[str, Layer], calls: Iterable[ir.Node], table: ir.Value
) -> None:
    """Rewrite every body that draws, and hand the table to its calls.

    Args:
        model: The model; changed in place.
        layers: The layers by name.
        calls: The nodes that call the bodies, wherever they stand.
        table: What they are to read, `RUNS` by `RUN`.
    """
    rewritten: dict[ir.OperatorIdentifier, bool] = {}
    for call in calls:
        key = call.op_identifier()
        if key not in rewritten:
            function = model.functions[key]
            whole = all(_values(call, block.col_copies) % RUN == 0 for block in layers[call.name or ""].blocks)
            rewritten[key] = _rewrite(function, whole=whole)
        if rewritten[key]:
            call.resize_inputs(len(call.inputs) + 1)
            call.replace_input_with(len(call.inputs) - 1, table)


def _values(call: ir.Node, copies: int) -> int:
    """How many values one sample's read of a block has; 1 where that is not known."""
    shape = call.outputs[0].shape
    dimensions = list(shape)[1:] if shape is not None else []
    sizes = [size for size in dimensions if isinstance(size, int)]
    return prod(sizes) * copies if sizes and len(sizes) == len(dimensions) else 1


def _rewrite(function: ir.Function, *, whole: bool) -> bool:
    drawn = [node for node in function if node.op_type == "RandomNormalLike"]
    if not drawn:
        return False
    table = ir.Value(name=DEVIATES)
    function.inputs.append(table)
    noise = next(value for value in function.inputs if value.name == "noise")
    for number, node in enumerate(drawn):
        total, deviate = node.inputs[0], node.outputs[0]
        nodes = _read(total, table, f"deviate_{number}_", whole=whole)  # type: ignore[arg-type]
        # The table is scaled already; only a noise that depends on the signal is still multiplied.
        scaled = [use for use, _ in deviate.uses() if use.op_type == "Mul" and noise in use.inputs]
        old = [node, *scaled]
        last = scaled[0].outputs[0] if scaled else deviate
        ir.convenience.replace_nodes_and_values(function.graph, node, old, nodes, [last], [nodes[-1].outputs[0]])
    return True


def _read(total: ir.Value, table: ir.Value, prefix: str, *, whole: bool) -> list[ir.Node]:
    """Nodes that gather as many deviates as `total` has values, in its shape; `whole` if these are whole runs."""
    nodes: list[ir.Node] = []

    def add(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op, list(inputs), attributes, name=f"{prefix}{len(nodes)}")
        node.outputs[0].name = node.name
        nodes.append(node)
        return node.outputs[0]

    def constant(array: Any) -> ir.Value:
        return add("Constant", value=ir.tensor(np.asarray(array)))

    size = add("Reshape", add("Size", total), constant(np.array([1], dtype=np.int64)))
    padded = size if whole else add("Add", size, constant(np.array([RUN - 1], dtype=np.int64)))
    blank = add("ConstantOfShape", add("Div", padded, constant(np.array([RUN], dtype=np.int64))))
    # A uniform float32 may round up to the bound itself, so that the bound is the last number below the table's end.
    below = float(np.nextafter(np.float32(RUNS), np.float32(0)))
    place = add("RandomUniformLike", blank, low=0.0, high=below, dtype=ir.DataType.FLOAT)
    read = add("Gather", table, add("Cast", place, to=ir.DataType.INT64), axis=0)
    if not whole:
        flat = add("Reshape", read, constant(np.array([-1], dtype=np.int64)))
        read = add("Slice", flat, constant(np.array([0], dtype=np.int64)), size)
    add("Reshape", read, add("Shape", total))
    return nodes
