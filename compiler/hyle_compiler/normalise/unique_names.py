"""Give the values of all subgraphs names that no other graph of the model uses."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["name_uniquely"]


def name_uniquely(model: ir.Model) -> None:
    """Rename what is named twice; ONNX lets the two branches of an If, say, use one name for two values."""
    taken = {str(value.name) for value in _values(model.graph) if value.name}
    for graph in list(model.graph.subgraphs()):
        if graph is model.graph:
            continue
        for value in list(_values(graph)):
            name, count = value.name or "value", 0
            while (value.name or "") in taken or not value.name:
                count += 1
                if f"{name}#{count}" not in taken:
                    value.name = f"{name}#{count}"
            taken.add(value.name)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """What a graph itself defines."""
    yield from dict.fromkeys([*graph.inputs, *graph.initializers.values()])
    for node in graph:
        yield from node.outputs
