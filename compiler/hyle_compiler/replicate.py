"""Run a layer on several sets of tiles and average: write errors and noise shrink with the root of their number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

__all__ = ["replicate"]


def replicate(model: ir.Model, nodes: Iterable[ir.Node], count: int) -> None:
    """Put `count` copies of each node and their mean in its place; the model's answers stay up to rounding.

    Args:
        model: Changed in place.
        nodes: Nodes with one output, of any of its graphs.
        count: Copies of each; 1 changes nothing.
    """
    if count > 1:
        for node in list(nodes):
            _replace(node, count)


def _replace(node: ir.Node, count: int) -> None:
    graph: Any = node.graph
    output = node.outputs[0]
    stem, name = node.name or str(output.name), output.name
    output.name = f"{name}#replaced"
    copies = []
    for number in range(count):
        attributes = list(node.attributes.values())
        copy = ir.Node(node.domain, node.op_type, list(node.inputs), attributes, name=f"{stem}_copy{number}")
        copy.outputs[0].name = f"{name}#copy{number}"
        copy.outputs[0].type, copy.outputs[0].shape = output.type, output.shape
        copies.append(copy)
    mean = ir.node("Mean", [copy.outputs[0] for copy in copies], name=f"{stem}_mean")
    result = mean.outputs[0]
    result.name, result.type, result.shape = name, output.type, output.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*copies, mean], [output], [result])
