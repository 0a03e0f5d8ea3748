"""Cut a model at its physical layers: digital segments, and what the host does between them.

A loop or branch with layers inside is cut the same way, and the host runs it (`hyle_runtime.steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
from hyle_bundle.manifest import Control, Step, Subgraph, TensorInfo
from onnx_ir.passes import common

__all__ = ["CONTROL", "DATATYPES", "DOMAIN", "Cut", "feed_controls", "graphs_of", "owners_of", "tensor_info"]

DOMAIN = "hyle.physical"
CONTROL: dict[str, Literal["if", "loop", "scan"]] = {"If": "if", "Loop": "loop", "Scan": "scan"}
DATATYPES = {"float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL", "object": "BYTES"} | {
    f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


def tensor_info(value: ir.Value) -> TensorInfo:
    """A value's name, type and shape as a manifest says them; -1 for a free dimension."""
    dtype = value.dtype.numpy().name if value.dtype is not None else "float32"
    shape = () if value.shape is None else tuple(int(size) if isinstance(size, int) else -1 for size in value.shape)
    return TensorInfo(str(value.name), DATATYPES.get(dtype, "FP32"), shape)


def graphs_of(node: ir.Node) -> list[ir.Graph]:
    """A node's subgraphs; for If first the branch of true."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    if node.op_type == "If" and {"then_branch", "else_branch"} <= set(node.attributes):
        return [node.attributes["then_branch"].as_graph(), node.attributes["else_branch"].as_graph()]
    return found


def owners_of(graph: ir.Graph) -> dict[ir.Graph, ir.Node]:
    """The node that holds each subgraph, at any depth."""
    return {inner: node for node in ir.traversal.RecursiveGraphIterator(graph) for inner in graphs_of(node)}


def feed_controls(model: ir.Model, physical: Mapping[ir.Node, str]) -> None:
    """Let a node make what the host hands to control flow, where that is a constant; give every value its type."""
    _type_values(model)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type not in CONTROL or not _holds(node, physical):
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and node.graph is not None:
                copy = ir.node("Identity", [value], name=f"{node.name}#{index}")
                copy.outputs[0].name = f"{value.name}#{node.name}#{index}"
                copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
                node.graph.insert_before(node, copy)
                node.replace_input_with(index, copy.outputs[0])


def _type_values(model: ir.Model) -> None:
    """Types of what control flow gives, from its bodies; the rest is inferred."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in CONTROL:
            inner = graphs_of(node)[0].outputs
            inner = list(inner)[1:] if node.op_type == "Loop" else list(inner)
            for outer, value in zip(node.outputs, inner, strict=False):
                outer.type = outer.type or value.type
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    if any(value.type is None for node in nodes for value in node.outputs):
        common.ShapeInferencePass()(model)


def _holds(node: ir.Node, physical: Mapping[ir.Node, str]) -> bool:
    return any(inner in physical for graph in graphs_of(node) for inner in ir.traversal.RecursiveGraphIterator(graph))


@dataclass(slots=True, eq=False)
class Cut:
    """Cuts one model.

    Attributes:
        model: The model; nodes that are physical are not in any segment.
        physical: Physical nodes and the names of their layers.
        folder: Where segments are written.
        save: Writes one segment.
        files: Written segments, by their name in the bundle.
    """

    model: ir.Model
    physical: Mapping[ir.Node, str]
    folder: Path
    save: Callable[[ir.Model, Path], Any] = ir.save
    files: dict[str, Path] = field(default_factory=dict)

    def steps(self) -> tuple[Step, ...]:
        """Write all segments and return the order of execution."""
        return self._steps(self.model.graph, owners_of(self.model.graph))

    def _steps(self, graph: ir.Graph, owners: Mapping[ir.Graph, ir.Node]) -> tuple[Step, ...]:
        host = {node for node in graph if node in self.physical or (node.op_type in CONTROL and self._inside(node))}
        stages = _stages(graph, host)
        last = max((stage + (node in host) for node, stage in stages.items()), default=0)
        steps: list[Step] = []
        for stage in range(last + 1):
            here = [node for node, s in stages.items() if s == stage]
            segment, inputs, outputs = self._segment(graph, [n for n in here if n not in host], owners)
            layers = tuple(self.physical[node] for node in here if node in self.physical)
            controls = tuple(self._control(n, owners) for n in here if n in host and n not in self.physical)
            if segment or layers or controls or not steps:
                steps.append(Step(segment, inputs, outputs, layers, controls))
        return tuple(steps)

    def _inside(self, node: ir.Node) -> bool:
        return _holds(node, self.physical)

    def _segment(
        self, graph: ir.Graph, nodes: list[ir.Node], owners: Mapping[ir.Graph, ir.Node]
    ) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        inside, outputs = set(nodes), set(graph.outputs)
        made = {value: None for node in nodes for value in node.outputs if value.name}
        needed = [v for v in made if v in outputs or any(use not in inside for use in _users(v, graph, owners))]
        if not needed:
            return "", (), ()
        scope = set(_enclosing(graph, owners))
        read = dict.fromkeys(v for node in nodes for v in _reads(node) if v not in made and v.graph in scope)
        constants = [v for v in read if v.is_initializer()]
        inputs = [v for v in read if not v.is_initializer()]
        name = f"segment-{len(self.files):03d}.onnx"
        self.files[name] = self.folder / name
        view = ir.GraphView(
            inputs, needed, nodes=nodes, initializers=constants, opset_imports=self.model.graph.opset_imports, name=name
        )
        part = view.clone()
        used = {node.op_identifier() for node in ir.traversal.RecursiveGraphIterator(part)}
        functions = [function for key, function in self.model.functions.items() if key in used]
        segment = ir.Model(part, ir_version=self.model.ir_version or 10, functions=functions)
        segment.opset_imports.update({k: v for k, v in self.model.opset_imports.items() if k != DOMAIN})
        self.save(segment, self.files[name])
        return name, tuple(str(v.name) for v in inputs), tuple(str(v.name) for v in needed)

    def _control(self, node: ir.Node, owners: Mapping[ir.Graph, ir.Node]) -> Control:
        graphs = graphs_of(node)
        bodies = tuple(
            Subgraph(
                tuple(str(v.name) for v in graph.inputs),
                tuple(str(v.name) for v in graph.outputs),
                self._steps(graph, owners),
            )
            for graph in graphs
        )
        kind = CONTROL[node.op_type]
        inputs = tuple("" if value is None else str(value.name) for value in node.inputs)
        outputs = tuple(value.name or f"{node.name}#{i}" for i, value in enumerate(node.outputs))
        if kind == "if":
            return Control(kind, str(node.name), inputs, outputs, bodies)
        if kind == "loop":
            while len(inputs) < 2:
                inputs = (*inputs, "")
            stacked = tuple(tensor_info(value) for value in graphs[0].outputs[len(inputs) - 1 :])
            return Control(kind, str(node.name), inputs, outputs, bodies, stacked)
        return self._scan(node, inputs, outputs, bodies, graphs[0])

    def _scan(
        self,
        node: ir.Node,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        bodies: tuple[Subgraph, ...],
        graph: ir.Graph,
    ) -> Control:
        sequences = node.attributes["num_scan_inputs"].as_int()
        made = graph.outputs[len(inputs) - sequences :]

        def listed(name: str, count: int) -> tuple[int, ...]:
            attribute = node.attributes.get(name)
            return (0,) * count if attribute is None else tuple(attribute.as_ints())

        return Control(
            "scan",
            str(node.name),
            inputs,
            outputs,
            bodies,
            tuple(map(tensor_info, made)),
            listed("scan_input_axes", sequences),
            listed("scan_input_directions", sequences),
            listed("scan_output_axes", len(made)),
            listed("scan_output_directions", len(made)),
        )


def _stages(graph: ir.Graph, host: set[ir.Node]) -> dict[ir.Node, int]:
    """How many nodes that the host runs lie between a graph's inputs and each node, along the longest path."""
    stages: dict[ir.Node, int] = {}
    for node in graph:
        stage = 0
        for value in _reads(node):
            producer = value.producer()
            if producer is not None and producer in stages:
                stage = max(stage, stages[producer] + (producer in host))
        stages[node] = stage
    return stages


def _reads(node: ir.Node) -> list[ir.Value]:
    """Values that a node reads, those that its subgraphs take from outside or hand out included."""
    found = [value for value in node.inputs if value is not None]
    for graph in graphs_of(node):
        found += list(graph.outputs)
        for inner in ir.traversal.RecursiveGraphIterator(graph):
            found += [value for value in inner.inputs if value is not None]
            found += [value for deeper in graphs_of(inner) for value in deeper.outputs]
    return found


def _enclosing(graph: ir.Graph, owners: Mapping[ir.Graph, ir.Node]) -> Iterator[ir.Graph]:
    """A graph and all that it lies in."""
    here: Any = graph
    while here is not None:
        yield here
        here = owners[here].graph if here in owners else None


def _users(value: ir.Value, graph: ir.Graph, owners: Mapping[ir.Graph, ir.Node]) -> list[ir.Node]:
    """Nodes of `graph` that read a value, directly or inside their subgraphs."""
    found = []
    for node, _ in value.uses():
        outer: Any = node
        while outer is not None and outer.graph is not graph:
            outer = owners.get(outer.graph)
        if outer is not None:
            found.append(outer)
    return found
