"""Give every output of every graph a value of its own, made by a node.

onnxruntime 1.32 leaves memory unwritten where a Scan's body lists one value as two outputs, and a segment can only hand
over what one of its nodes made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

__all__ = ["separate_outputs", "subgraphs"]


def separate_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """Put an Identity before an output that is an input, an initializer or another output as well.

    Args:
        model: Changed in place.
        names: Names that the main graph's outputs get, in order.
    """
    for graph in subgraphs(model.graph):
        _separate(graph, [str(value.name) for value in graph.outputs])
    _separate(model.graph, names)


def subgraphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Every graph inside a graph's nodes, at any depth."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.GRAPH:
                yield attribute.as_graph()
            elif attribute.type is ir.AttributeType.GRAPHS:
                yield from attribute.as_graphs()


def _separate(graph: ir.Graph, names: Sequence[str]) -> None:
    made: set[ir.Value] = set()
    for index, (value, name) in enumerate(zip(list(graph.outputs), names, strict=True)):
        producer = value.producer()
        if producer is not None and producer.graph is graph and value not in made:
            value.name = name
            made.add(value)
            continue
        copy = ir.node("Identity", [value], num_outputs=1)
        graph.append(copy)
        output = copy.outputs[0]
        output.shape, output.type = value.shape, value.type
        if value.name == name and value.is_initializer():
            value.name = f"{name}_constant"
        output.name = name if value.name != name else f"{name}_out"
        graph.outputs[index] = output
        made.add(output)
