"""Write the graphs of a bundle: the whole program, its twin, and the digital segments between the physical layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from hyle_bundle.manifest import Block, Convolution, Layer, Step, Tile
from hyle_bundle.tensor_spec import DTYPES
from hyle_runtime.placement import DEVIATES, instance_name
from hyle_substrates.deviates import RUN, RUNS
from hyle_substrates.profile import Profile
from onnx_ir.passes import common

from hyle_compiler.bodies import DOMAIN, body, input_names
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.converters import call_converters
from hyle_compiler.followers import take_followers
from hyle_compiler.segments import Cut
from hyle_compiler.table_noise import read_noise_from_table
from hyle_compiler.tensors import Stored

__all__ = ["Lowered", "attach", "cut", "describe_layer", "lower", "write_programs"]

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
        around: Any = old.graph
        ir.convenience.replace_nodes_and_values(around, old, [old], [call], [old.outputs[0]], [output])
    model.opset_imports[DOMAIN] = 1
    common.RemoveUnusedNodesPass()(model)
    model.ir_version = max(model.ir_version or 8, IR_VERSION)


def lower(model: ir.Model, layers: Sequence[Layer], folder: Path) -> Lowered:
    """Write program.onnx, twin.onnx and the segments of an attached model into `folder`."""
    segments, steps = cut(model, folder)
    return Lowered({**write_programs(model, layers, folder), **segments}, steps)


def cut(model: ir.Model, folder: Path) -> tuple[dict[str, Path], tuple[Step, ...]]:
    """Write the digital segments between the nodes of physical layers; their files, and the order of execution."""
    found = Cut(model, {node: str(node.name) for node in _calls(model)}, folder)
    steps = found.steps()
    return found.files, steps


def write_programs(model: ir.Model, layers: Sequence[Layer], folder: Path) -> dict[str, Path]:
    """Write program.onnx and twin.onnx of an attached model, which is used up."""
    files = {"program.onnx": folder / "program.onnx", "twin.onnx": folder / "twin.onnx"}
    ir.save(model, files["program.onnx"])
    _open_weights(model, layers)
    _open_noise(model, layers)
    take_followers(model)
    call_converters(model)
    ir.save(model, files["twin.onnx"])
    return files


def _calls(model: ir.Model) -> list[ir.Node]:
    """Nodes that call a physical layer's body, in subgraphs too."""
    return [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.domain == DOMAIN]


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
    calls = {node.name: node for node in _calls(model)}
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
    calls = [node for node in _calls(model) if node.name in names]
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
