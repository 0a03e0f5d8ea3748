"""Give a twin's converters to functions of their own, which compiled operators can stand for.

Between two matrix products a body is a dozen small operators over the same values. Where an agent has the library of
`hyle_runtime.kernels`, onnxruntime takes its operators of the same names instead of the functions, and each value is
touched once; elsewhere the functions are what the body was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx_ir as ir
from hyle_runtime.kernels import DOMAIN, MOST_LEVELS, VARIANTS
from onnx_ir.passes import common

from hyle_compiler.tape import CONVERTERS, Converter

__all__ = ["call_converters"]

# What an operator reads, in its order.
ROLES = {
    "Drive": ("x", "factor"),
    "Read": ("total", "deviates", "places", "scale", "full_scale", "offset"),
}
# Nodes that only bring deviates into the shape of what they are added to, or tell that shape.
SHAPING = frozenset({"Constant", "Identity", "Reshape", "Shape", "Size", "Slice"})


def call_converters(model: ir.Model) -> None:
    """Replace the converters of every body by calls, as far as there are names for what differs; in place."""
    named: dict[bytes, ir.Function] = {}
    for function in list(model.functions.values()):
        # The last one first: it may read what an earlier one gives.
        for converter in reversed(function.meta.get(CONVERTERS, ())):
            _call(function, converter, named)
    for converted in named.values():
        model.functions[converted.identifier()] = converted
    if named:
        model.opset_imports[DOMAIN] = 1
        common.RemoveUnusedNodesPass()(model)


def _call(function: ir.Function, converter: Converter, named: dict[bytes, ir.Function]) -> None:
    if converter.attributes["levels"] > MOST_LEVELS:
        return
    roles = dict(converter.inputs)
    nodes = {node for node in converter.nodes if node.graph is function.graph}
    if converter.kind == "Read":
        _take_deviates(converter.inputs["total"], roles, nodes)
    found = _complete(roles, nodes)
    if not found or _gives(nodes, function) - set(converter.outputs):
        return
    ordered = [node for node in function if node in nodes]
    definition = _definition(converter, roles, ordered, function.opset_imports[""])
    key = ir.to_proto(definition).SerializeToString(deterministic=True)
    if key not in named:
        number = sum(other.name.startswith(converter.kind) for other in named.values())
        if number == VARIANTS[converter.kind]:
            return
        definition.name = f"{converter.kind}{number}"
        named[key] = definition
    inputs = [roles.get(role) for role in ROLES[converter.kind]]
    while inputs[-1] is None:
        inputs.pop()
    call = ir.node(named[key].name, inputs, converter.attributes, domain=DOMAIN, num_outputs=len(converter.outputs))
    for given, new in zip(converter.outputs, call.outputs, strict=True):
        new.name = given.name
    call.name = str(converter.outputs[0].name)
    old = [node for node in ordered if node.op_type != "Constant" or _users(node) <= nodes]
    ir.convenience.replace_nodes_and_values(function.graph, ordered[-1], old, [call], converter.outputs, call.outputs)
    function.opset_imports[DOMAIN] = 1


def _take_deviates(total: ir.Value, roles: dict[str, ir.Value], nodes: set[ir.Node]) -> None:
    """Find what is added to the sums, and where that comes from."""
    add = next(node for node, _ in total.uses() if node in nodes)
    if add.op_type != "Add":
        return
    value = next(other for other in add.inputs if other is not None and other is not total)
    while (node := value.producer()) is not None and node.op_type in SHAPING and node.inputs:
        nodes.add(node)
        value = _first(node)
    if node is not None and node.op_type == "Gather":
        nodes.add(node)
        value, roles["places"] = _first(node), node.inputs[1]  # type: ignore[assignment]
    roles["deviates"] = value


def _first(node: ir.Node) -> ir.Value:
    return next(value for value in node.inputs if value is not None)


def _complete(roles: Mapping[str, ir.Value], nodes: set[ir.Node]) -> bool:
    """Add the constants and shapes that the nodes read; False if they read anything else that has no role."""
    known, waiting = set(roles.values()), list(nodes)
    while waiting:
        for value in waiting.pop().inputs:
            node = None if value is None else value.producer()
            if value is None or value in known or node in nodes:
                continue
            if node is None or node.op_type not in SHAPING:
                return False
            nodes.add(node)
            waiting.append(node)
    return True


def _gives(nodes: Iterable[ir.Node], function: ir.Function) -> set[ir.Value]:
    """What other nodes read of these, or the function gives; constants are copied, and so never missed."""
    inside = set(nodes)
    values = [value for node in inside if node.op_type != "Constant" for value in node.outputs]
    outside = set(function.outputs)
    return {value for value in values if value in outside or any(user not in inside for user, _ in value.uses())}


def _users(node: ir.Node) -> set[ir.Node]:
    return {user for value in node.outputs for user, _ in value.uses()}


def _definition(
    converter: Converter, roles: Mapping[str, ir.Value], nodes: Iterable[ir.Node], opset: int
) -> ir.Function:
    """A function of copies of the nodes, whose names tell nothing of where they were."""
    formal = {role: ir.Value(name=role) for role in ROLES[converter.kind]}
    known: dict[ir.Value, ir.Value] = {value: formal[role] for role, value in roles.items()}
    copies: list[ir.Node] = []
    for node in nodes:
        inputs = [None if value is None else known[value] for value in node.inputs]
        attributes = {name: _nameless(attribute.value) for name, attribute in node.attributes.items()}
        copy = ir.node(node.op_type, inputs, attributes, num_outputs=len(node.outputs), name=f"n{len(copies)}")
        for number, (old, new) in enumerate(zip(node.outputs, copy.outputs, strict=True)):
            new.name = f"v{len(copies)}_{number}"
            known[old] = new
        copies.append(copy)
    last = max(number for number, role in enumerate(formal) if role in roles) + 1
    graph = ir.Graph(
        list(formal.values())[:last],
        [known[value] for value in converter.outputs],
        nodes=copies,
        opset_imports={"": opset},
        name=converter.kind,
    )
    declared = [ir.AttrInt64(name, value) for name, value in converter.attributes.items()]
    return ir.Function(DOMAIN, converter.kind, graph=graph, attributes=declared)


def _nameless(value: Any) -> Any:
    return ir.tensor(value.numpy()) if isinstance(value, ir.TensorProtocol) else value
