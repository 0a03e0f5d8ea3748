"""Let a twin's bodies do what follows their last read: rectify, and keep the largest of neighbouring values.

A read that does so touches each value once, where an operator of its own would read and write all of them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir
from hyle_runtime.kernels import MOST_POOLED

from hyle_compiler.normalise.edit import attribute
from hyle_compiler.tape import CONVERTERS, Converter

__all__ = ["take_followers"]


def take_followers(model: ir.Model) -> None:
    """Move what follows a call of a body into the body, where its read can do it; in place."""
    graph = model.graph
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    called = Counter(node.op_identifier() for node in nodes)
    for call in list(graph):
        function = model.functions.get(call.op_identifier())
        if function is None or called[call.op_identifier()] > 1:
            continue
        while (follower := _follower(call, graph)) is not None:
            done = _done(follower, function)
            if done is None:
                break
            call = _take(follower, call, graph, function, done)


def _follower(call: ir.Node, graph: ir.Graph) -> ir.Node | None:
    """The one node that reads what a call gives, if nothing else does."""
    (value,) = call.outputs
    if len(value.uses()) != 1 or value in graph.outputs:
        return None
    ((follower, _),) = value.uses()
    return follower if follower.graph is graph and len(follower.outputs) == 1 else None


def _done(follower: ir.Node, function: ir.Function) -> Mapping[str, int] | None:
    """What the body's last read does for the follower, as its attributes; None if it cannot."""
    converter = _last_read(function)
    if converter is None or follower.domain:
        return None
    if follower.op_type == "Relu":
        return {"rectify": 1}
    if follower.op_type == "MaxPool" and converter.attributes["axis"] == 1 and not converter.attributes["pool_height"]:
        return _pool(follower)
    return None


def _last_read(function: ir.Function) -> Converter | None:
    found = [one for one in function.meta.get(CONVERTERS, ()) if one.outputs == tuple(function.outputs)]
    return found[0] if found and found[0].kind == "Read" else None


def _pool(node: ir.Node) -> Mapping[str, int] | None:
    """Attributes for windows that lie side by side and leave out nothing but a rest; None for others."""
    sides = list(attribute(node, "kernel_shape", ()))
    if len(sides) not in {1, 2} or max(sides) > MOST_POOLED or list(attribute(node, "strides", ())) != sides:
        return None
    padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    if padded or attribute(node, "ceil_mode", 0) or set(attribute(node, "dilations", ())) - {1}:
        return None
    return {"pool_height": sides[0] if len(sides) == 2 else 1, "pool_width": sides[-1]}


def _take(follower: ir.Node, call: ir.Node, graph: ir.Graph, function: ir.Function, done: Mapping[str, int]) -> ir.Node:
    """Move a node into the body; returns the call that stands for both."""
    before, after = function.outputs[0], follower.outputs[0]
    attributes = {name: attribute.value for name, attribute in follower.attributes.items()}
    name = f"{before.name}_{follower.op_type}"
    moved = ir.node(follower.op_type, [before], attributes, name=name)
    moved.outputs[0].name = name
    function.append(moved)
    function.outputs[0] = moved.outputs[0]
    function.meta[CONVERTERS] = tuple(
        replace(one, nodes=(*one.nodes, moved), outputs=(moved.outputs[0],), attributes={**one.attributes, **done})
        if one.outputs == (before,)
        else one
        for one in function.meta[CONVERTERS]
    )
    both = ir.node(call.op_type, call.inputs, domain=call.domain, name=call.name)
    new = both.outputs[0]
    new.name, new.shape, new.type = after.name, after.shape, after.type
    ir.convenience.replace_nodes_and_values(graph, follower, [call, follower], [both], [after], [new])
    return both
