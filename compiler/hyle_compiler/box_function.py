"""The functions of a black box layer: its fitted twin as a model brings it, and as a compiled model calls it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_substrates.fit_record import KEY, FitRecord, encode_record

from hyle_compiler.bodies import DOMAIN

__all__ = ["BoundTwin", "layer_function"]

Array = np.ndarray[Any, Any]
Known = dict[ir.Value | None, ir.Value | None]


@dataclass(frozen=True, slots=True, eq=False)
class BoundTwin:
    """A fitted twin: its record, and its function from `inputs` (and `parameters`) to `outputs`."""

    record: FitRecord
    function: ir.Function

    @classmethod
    def of(cls, record: FitRecord, model: ir.Model) -> BoundTwin:
        """Make a function of what `read_fit` read."""
        return cls(record, _twin_function(record, model.graph, model.opset_imports[""]))


def layer_function(record: FitRecord, twin: ir.Function, name: str, opset: int) -> tuple[ir.Function, dict[str, Array]]:
    """Return the twin plus its error as noise: y + noise · error · ξ; constants become inputs, returned by name."""
    inputs = [ir.Value(name=n) for n in ("x", "noise", "error", *(["parameters"] if record.parameters else []))]
    known: Known = {None: None, twin.inputs[0]: inputs[0]}
    if record.parameters:
        known[twin.inputs[1]] = inputs[3]
    weights: dict[str, Array] = {}
    rest = []
    for node in twin:
        value = node.attributes.get("value") if node.op_type == "Constant" else None
        if value is not None and value.value.size > 1 and value.value.dtype.is_floating_point():
            bound = ir.Value(name=str(node.outputs[0].name))
            inputs.append(bound)
            known[node.outputs[0]] = bound
            weights[f"{name}/{bound.name}"] = value.value.numpy()
        else:
            rest.append(node)
    nodes = _copies(rest, known)
    y = known[twin.outputs[0]]
    assert y is not None
    draw = _node("RandomNormalLike", [y], "deviate", mean=0.0, scale=1.0)
    size = _node("Mul", [inputs[1], inputs[2]], "size")
    wrong = _node("Mul", [draw.outputs[0], size.outputs[0]], "wrong")
    total = _node("Add", [y, wrong.outputs[0]], "y")
    graph = ir.Graph(
        inputs, total.outputs, nodes=[*nodes, draw, size, wrong, total], opset_imports={"": opset}, name=name
    )
    return ir.Function(DOMAIN, name, graph=graph, attributes=[]), weights


def _twin_function(record: FitRecord, graph: ir.Graph, opset: int) -> ir.Function:
    """A fit's graph with its constants inside; one vector of parameters for all samples."""
    inputs = [ir.Value(name="inputs"), *([ir.Value(name="parameters")] if record.parameters else [])]
    known: Known = {None: None}
    nodes: list[ir.Node] = []
    for name, value in graph.initializers.items():
        tensor = ir.tensor(value.const_value.numpy(), name=name)  # type: ignore[union-attr]
        nodes.append(_node("Constant", [], name, value=tensor))
        known[value] = nodes[-1].outputs[0]
    for value in graph.inputs:
        if value.name == "inputs":
            known[value] = inputs[0]
            continue
        first, size = (np.array([n], dtype=np.int64) for n in (0, record.parameters))
        shape = _node("Shape", [inputs[0]], "shape")
        nodes += [shape, _node("Constant", [], "first", value=ir.tensor(first))]
        batch = _node("Gather", [shape.outputs[0], nodes[-1].outputs[0]], "batch")
        nodes += [batch, _node("Constant", [], "count", value=ir.tensor(size))]
        whole = _node("Concat", [batch.outputs[0], nodes[-1].outputs[0]], "whole", axis=0)
        nodes += [whole, _node("Expand", [inputs[1], whole.outputs[0]], "all_parameters")]
        known[value] = nodes[-1].outputs[0]
    nodes += _copies(graph, known)
    outputs = [known[value] for value in graph.outputs]
    made = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": opset}, name=record.name)  # type: ignore[arg-type]
    function = ir.Function(DOMAIN, record.name, graph=made, attributes=[])
    function.metadata_props[KEY] = encode_record(record)
    return function


def _copies(nodes: Iterable[ir.Node], known: Known) -> list[ir.Node]:
    made = []
    for node in nodes:
        inputs = [known[value] for value in node.inputs]
        attributes = {a.name: a.value for a in node.attributes.values()}
        made.append(_node(node.op_type, inputs, str(node.outputs[0].name), **attributes))
        known[node.outputs[0]] = made[-1].outputs[0]
    return made


def _node(op_type: str, inputs: list[Any], output: str, **attributes: Any) -> ir.Node:
    node = ir.node(op_type, inputs, attributes, name=output)
    node.outputs[0].name = output
    return node
