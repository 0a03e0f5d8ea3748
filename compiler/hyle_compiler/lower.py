"""Write the graphs of a bundle: the whole program, its twin, and the digital segments between the physical layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from hyle_bundle.manifest import Block, Convolution, Layer, Step, Tile
from hyle_bundle.tensor_spec import DTYPES
from hyle_runtime.placement import DEVIATES, instance_name
from hyle_substrates.deviates import RUN, RUNS
from hyle_substrates.profile import Profile
from onnx_ir.passes import common

from hyle_compiler.bodies import DOMAIN, body, input_names
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.table_noise import read_noise_from_table
from hyle_compiler.tensors import Stored

__all__ = ["Lowered", "attach", "describe_layer", "lower"]

INSTANCE = "instance"
IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Lowered:
    """Files of graphs, by their name in the bundle, and the order of execution."""

    files: dict[str, Path]
    steps: tuple[Step, ...]


def describe_layer(layer: Calibrated) -> Layer:
    """The manifest's words for a layer."""
    candidate, name = layer.placed.layer, layer.placed.layer.name
    rows, cols = candidate.matrix.shape
    geometry = candidate.geometry
    conv = None
    if geometry is not None:
        taps = 1
        for size in geometry.kernel:
            taps *= size
        conv = Convolution(geometry.kernel, geometry.strides, geometry.pads, geometry.dilations, rows // taps)
    tiles = tuple(
        Tile(tile.index, number, tile.rows, tile.cols)
        for number, block in enumerate(layer.placed.blocks)
        for tile in block.tiles
    )
    return Layer(
        name=name,
        op=candidate.op,
        input=str(candidate.x.name),
        output=str(candidate.y.name),
        rows=rows,
        cols=cols,
        range_mode="dynamic" if layer.dynamic else "static",
        full_scale=f"{name}/full_scale",
        offset=f"{name}/offset",
        noise=f"{name}/noise",
        blocks=tuple(
            Block(block.rows, f"{name}/{i}/levels", f"{name}/{i}/gain", layer.row_copies, layer.col_copies)
            for i, block in enumerate(layer.placed.blocks)
        ),
        tiles=tiles,
        macs=round(rows * cols * layer.positions),
        probes=f"{name}/probes",
        probe_scales=f"{name}/probe_scales",
        responses=f"{name}/responses",
        convolution=conv,
        polarity=layer.polarity,
        reference=layer.reference,
    )


def attach(model: ir.Model, layers: Sequence[Calibrated], profile: Profile, tensors: Mapping[str, Stored]) -> None:
    """Replace every physical operator by one node that calls its body, and point the weights into the tensor file."""
    graph = model.graph
    for name, value in graph.initializers.items():
        if name in tensors:
            value.const_value = tensors[name].external(value.const_value.dtype)  # type: ignore[union-attr]
    for layer in layers:
        function = body(layer, profile, model.opset_imports[""])
        model.functions[function.identifier()] = function
        old = layer.placed.layer.node
        values = {
            name: _initializer(graph, f"{function.name}/{name}", tensors) for name in dict.fromkeys(input_names(layer))
        }
        inputs = [values[name] for name in input_names(layer)]
        x = next(value for value in old.inputs if value is not None and value.name == layer.placed.layer.x.name)
        call = ir.node(function.name, [x, *inputs], domain=DOMAIN, name=function.name)
        output = call.outputs[0]
        output.shape, output.type = old.outputs[0].shape, old.outputs[0].type
        ir.convenience.replace_nodes_and_values(graph, old, [old], [call], [old.outputs[0]], [output])
    model.opset_imports[DOMAIN] = 1
    common.RemoveUnusedNodesPass()(model)
    model.ir_version = max(model.ir_version or 8, IR_VERSION)


def lower(model: ir.Model, layers: Sequence[Layer], folder: Path) -> Lowered:
    """Write program.onnx, twin.onnx and the segments of an attached model into `folder`."""
    files = {"program.onnx": folder / "program.onnx", "twin.onnx": folder / "twin.onnx"}
    ir.save(model, files["program.onnx"])
    steps = _segments(model, layers, folder, files)
    _open_weights(model, layers)
    _open_noise(model, layers)
    ir.save(model, files["twin.onnx"])
    return Lowered(files, steps)


def _initializer(graph: ir.Graph, name: str, tensors: Mapping[str, Stored]) -> ir.Value:
    stored = tensors[name]
    dtype = ir.DataType.from_numpy(DTYPES[stored.spec.dtype])
    value = ir.Value(
        name=name, shape=ir.Shape(stored.spec.shape), type=ir.TensorType(dtype), const_value=stored.external(dtype)
    )
    graph.register_initializer(value)
    return value


def _open_weights(model: ir.Model, layers: Sequence[Layer]) -> None:
    """Let an instance supply the weights: float32, in a file that does not exist."""
    calls = {node.name: node for node in model.graph if node.domain == DOMAIN}
    for layer in layers:
        call = calls[layer.name]
        for block in layer.blocks:
            nominal = model.graph.initializers[block.levels]
            places = [i for i, value in enumerate(call.inputs) if value is nominal]
            for copy, place in enumerate(places):
                name = instance_name(block.levels, copy)
                call.replace_input_with(place, _instance(model.graph, name, ir.Shape(nominal.shape or ())))
            del model.graph.initializers[block.levels]


def _open_noise(model: ir.Model, layers: Sequence[Layer]) -> None:
    """Let an instance supply the table that noise is read from, where there is any."""
    names = {layer.name for layer in layers}
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    calls = [node for node in nodes if node.domain == DOMAIN and node.name in names]
    table = _instance(model.graph, DEVIATES, ir.Shape((RUNS, RUN)))
    read_noise_from_table(model, {layer.name: layer for layer in layers}, calls, table)
    if not table.uses():
        del model.graph.initializers[DEVIATES]


def _instance(graph: ir.Graph, name: str, shape: ir.Shape) -> ir.Value:
    size = 4
    for dimension in shape:
        size *= int(dimension)  # type: ignore[arg-type]
    tensor = ir.ExternalTensor(INSTANCE, 0, size, ir.DataType.FLOAT, shape=shape, name=name)
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
    graph.register_initializer(value)
    return value


def _stages(model: ir.Model) -> dict[ir.Node, int]:
    """How many physical layers lie between the inputs and each node, along the longest path."""
    stages: dict[ir.Node, int] = {}
    for node in model.graph:
        stage = 0
        for value in _reads(node):
            producer = value.producer()
            if producer is not None and producer in stages:
                stage = max(stage, stages[producer] + (producer.domain == DOMAIN))
        stages[node] = stage
    return stages


def _reads(node: ir.Node) -> list[ir.Value]:
    """Values that a node reads, those that its subgraphs take from outside included."""
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        graphs = [attribute.value] if attribute.type is ir.AttributeType.GRAPH else []
        graphs = list(attribute.value) if attribute.type is ir.AttributeType.GRAPHS else graphs
        for graph in graphs:
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                found += [value for value in inner.inputs if value is not None]
    return found


def _segments(model: ir.Model, layers: Sequence[Layer], folder: Path, files: dict[str, Path]) -> tuple[Step, ...]:
    stages, owners = _stages(model), _owners(model.graph)
    last = max((stage + (node.domain == DOMAIN) for node, stage in stages.items()), default=0)
    outputs = {str(value.name) for value in model.graph.outputs}
    steps = []
    for stage in range(last + 1):
        digital = [node for node, s in stages.items() if s == stage and node.domain != DOMAIN]
        physical = tuple(node.name for node, s in stages.items() if s == stage and node.domain == DOMAIN)
        inside = set(digital)
        made = {str(v.name): v for node in digital for v in node.outputs if v.name}
        needed = tuple(
            name for name, v in made.items() if name in outputs or any(use not in inside for use in _uses(v, owners))
        )
        read = dict.fromkeys(
            str(v.name)
            for node in digital
            for v in _reads(node)
            if v.name not in made and v.name not in model.graph.initializers and _outer(v, model)
        )
        segment = ""
        if digital:
            segment = f"segment-{stage:03d}.onnx"
            files[segment] = folder / segment
            _write_segment(model, tuple(read), needed, files[segment])
        steps.append(Step(segment, tuple(read), needed, tuple(str(name) for name in physical)))
    return tuple(steps)


def _outer(value: ir.Value, model: ir.Model) -> bool:
    producer = value.producer()
    return (
        value.is_graph_input() and value in set(model.graph.inputs)
        if producer is None
        else producer.graph is model.graph
    )


def _uses(value: ir.Value, owners: Mapping[ir.Graph, ir.Node]) -> list[ir.Node]:
    """Nodes of the main graph that read a value, directly or inside their subgraphs."""
    found = []
    for node, _ in value.uses():
        outer: ir.Node | None = node
        while outer is not None and outer.graph in owners:
            outer = owners[outer.graph]  # type: ignore[index]
        if outer is not None and outer.graph is not None:
            found.append(outer)
    return found


def _owners(graph: ir.Graph) -> dict[ir.Graph, ir.Node]:
    """The node that holds each subgraph, at any depth."""
    owners: dict[ir.Graph, ir.Node] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for attribute in node.attributes.values():
            graphs = [attribute.value] if attribute.type is ir.AttributeType.GRAPH else []
            graphs = list(attribute.value) if attribute.type is ir.AttributeType.GRAPHS else graphs
            owners |= dict.fromkeys(graphs, node)
    return owners


def _write_segment(model: ir.Model, inputs: tuple[str, ...], outputs: tuple[str, ...], path: Path) -> None:
    graph = ir.convenience.extract(model.graph, list(inputs), list(outputs))
    used = {node.op_identifier() for node in ir.traversal.RecursiveGraphIterator(graph)}
    functions = [function for key, function in model.functions.items() if key in used]
    part = ir.Model(graph, ir_version=model.ir_version or IR_VERSION, functions=functions)
    part.opset_imports.update({key: value for key, value in model.opset_imports.items() if key != DOMAIN})
    ir.save(part, path)
