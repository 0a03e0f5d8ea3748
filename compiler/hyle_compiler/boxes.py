"""Layers that run on a black box: found in a model or put into it, with their fitted twin as a model-local function.

A layer is a node of the domain `hyle.physical` whose operator is the twin's name. Its first input is driven (samples by
inputs), its second, if the matter has parameters, is a constant of as many values. A model may bring the twin as a
function of that name (`bind_twin`); otherwise the compiler is given the file that `hyle fit` wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_bundle.manifest import Box
from hyle_substrates.fit_record import KEY, FitRecord, decode_record

from hyle_compiler.bodies import DOMAIN
from hyle_compiler.box_function import BoundTwin, layer_function
from hyle_compiler.errors import ModelError
from hyle_compiler.tensors import Makers

__all__ = ["attach_boxes", "bind_twin", "box_report", "box_tensors", "describe_boxes", "take_twins"]

Array = np.ndarray[Any, Any]


def bind_twin(model: ir.Model, twin: BoundTwin) -> None:
    """Put a twin into a model as the function that nodes of its name call, so that any ONNX runtime runs it."""
    model.functions[twin.function.identifier()] = twin.function
    model.opset_imports[DOMAIN] = 1


def take_twins(model: ir.Model, given: Mapping[str, BoundTwin]) -> dict[str, BoundTwin]:
    """Take the twins that a model brings out of it, so that nothing is inlined, and add those that were given.

    Args:
        model: The model as it was read; its functions of this domain are removed.
        given: Twins by the operator's name, or by that of a node which they replace; they come before the model's own.

    Raises:
        ModelError: A node that a twin is to replace does not exist.
        FitError: A function's record is broken.
    """
    found: dict[str, BoundTwin] = {}
    for key, function in list(model.functions.items()):
        if function.domain == DOMAIN and KEY in function.metadata_props:
            record = decode_record(function.metadata_props[KEY], f"function {function.name}")
            found[function.name] = BoundTwin(record, function)
            del model.functions[key]
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for name, twin in given.items():
        if name not in used:
            _replace_node(model, name, twin.record)
        found[name if name in used else twin.record.name] = twin
    return found


def _replace_node(model: ir.Model, name: str, record: FitRecord) -> None:
    old = next((node for node in model.graph if node.name == name), None)
    if old is None:
        known = ", ".join(str(node.name) for node in list(model.graph)[:20])
        raise ModelError(f"There is no node {name!r} to run on {record.name!r}.", remedy=f"Name one of: {known}.")
    if record.parameters:
        raise ModelError(
            f"{record.name!r} has {record.parameters} parameters, and node {name!r} brings none.",
            remedy=f"Write the model with a node {record.name!r} of the domain {DOMAIN}.",
        )
    call = ir.node(record.name, [old.inputs[0]], domain=DOMAIN, name=name)
    call.outputs[0].shape, call.outputs[0].type = old.outputs[0].shape, old.outputs[0].type
    ir.convenience.replace_nodes_and_values(model.graph, old, [old], [call], [old.outputs[0]], [call.outputs[0]])
    model.opset_imports[DOMAIN] = 1


def attach_boxes(model: ir.Model, twins: Mapping[str, BoundTwin]) -> None:
    """Give every black box layer of a simplified model its own function, with the weights as the graph's.

    Raises:
        ModelError: A layer has no twin, or its inputs do not fit; it lies inside a subgraph.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == DOMAIN and node.graph is not model.graph:
            raise ModelError(
                f"Node {node.name!r} is a black box inside a control-flow subgraph.", remedy="Move it out of there."
            )
    taken: set[str] = set()
    for node in [node for node in model.graph if node.domain == DOMAIN]:
        twin = twins.get(node.op_type)
        if twin is None:
            raise ModelError(
                f"Node {node.name!r} runs on {node.op_type!r}, of which no twin is known.",
                remedy=f"Fit it with `hyle fit` and give --black-box {node.op_type}=TWIN.onnx.",
            )
        _attach(model, node, twin.record, twin.function, _name(node, taken))


def _attach(model: ir.Model, node: ir.Node, record: FitRecord, twin: ir.Function, name: str) -> None:
    x = node.inputs[0] if node.inputs else None
    shape = None if x is None else x.shape
    if x is None or (shape is not None and (len(shape) != 2 or shape[1] not in (record.inputs, None))):
        got = "nothing" if shape is None else tuple(map(str, shape))
        raise ModelError(
            f"Layer {name!r} gives {got} to {record.name!r}, which takes samples by {record.inputs}.",
            remedy="Reshape its input.",
        )
    parameters = _parameters(node, record, name)
    extra = {f"{name}/noise": np.zeros((), np.float32), f"{name}/error": np.array(record.error_std, np.float32)}
    extra |= {f"{name}/parameters": parameters} if record.parameters else {}
    function, weights = layer_function(record, twin, name, model.opset_imports[""])
    function.metadata_props[KEY] = twin.metadata_props[KEY]
    values = [_initializer(model.graph, key, array) for key, array in {**extra, **weights}.items()]
    call = ir.node(name, [x, *values], domain=DOMAIN, name=name)
    call.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    call.outputs[0].shape = ir.Shape([shape[0] if shape is not None else None, record.outputs])
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], [call], [node.outputs[0]], [call.outputs[0]])
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = 1


def _parameters(node: ir.Node, record: FitRecord, name: str) -> Array:
    given = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = None if given is None else ir.convenience.get_const_tensor(given)
    array = np.zeros(0) if tensor is None else np.asarray(tensor.numpy()).reshape(-1)
    if len(array) != record.parameters or (given is not None and tensor is None):
        got = "values that are computed at run time" if given is not None and tensor is None else f"{len(array)}"
        raise ModelError(
            f"Layer {name!r} has {record.parameters} parameters on {record.name!r}; the model gives {got}.",
            remedy="Give them as a constant, the node's second input.",
        )
    if not np.isfinite(array).all() or (len(array) and (array.min() < record.low or array.max() > record.high)):
        raise ModelError(
            f"A parameter of layer {name!r} leaves [{record.low:g}, {record.high:g}].",
            remedy="Scale it into that range.",
        )
    return array.astype(np.float32)


def _initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _name(node: ir.Node, taken: set[str]) -> str:
    raw = node.name or node.op_type
    base = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in raw).strip("_")[:80] or "box"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def describe_boxes(model: ir.Model) -> tuple[Box, ...]:
    """The manifest's words for a model's black box layers, before its matrices are attached."""
    found = []
    for node in model.graph:
        if node.domain != DOMAIN:
            continue
        text = model.functions[node.op_identifier()].metadata_props.get(KEY)
        if text is None:
            continue
        record, name = decode_record(text, str(node.name)), str(node.name)
        box = Box(
            name=name,
            matter=record.name,
            identity=record.identity,
            input=str(node.inputs[0].name),  # type: ignore[union-attr]
            output=str(node.outputs[0].name),
            inputs=record.inputs,
            outputs=record.outputs,
            low=record.low,
            high=record.high,
            noise=f"{name}/noise",
            correlation=record.correlation.value,
            error=record.error.value,
            count=record.parameters,
            values=f"{name}/parameters" if record.parameters else "",
        )
        found.append(box)
    return tuple(found)


def box_tensors(model: ir.Model, boxes: Iterable[Box]) -> Makers:
    """What the host and a twin's graph need of them in `programming.safetensors`: parameters, and the noise's scale.

    The scale is 1 there; the graph that the exact model is observed on has 0.
    """
    makers: Makers = {}
    for box in boxes:
        makers[box.noise] = partial(np.ones, (), np.float32)
        if box.values:
            array = model.graph.initializers[box.values].const_value.numpy()  # type: ignore[union-attr]
            makers[box.values] = partial(np.asarray, array)
    return makers


def box_report(boxes: Iterable[Box]) -> list[dict[str, Any]]:
    """The report's rows: what runs on which device, and how well its twin predicts it."""
    return [
        {
            "name": box.name,
            "matter": box.matter,
            "identity": box.identity,
            "inputs": box.inputs,
            "outputs": box.outputs,
            "parameters": box.count,
            "correlation": box.correlation,
            "error": box.error,
        }
        for box in boxes
    ]
