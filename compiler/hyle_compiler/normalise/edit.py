"""Replace one node of a graph by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["STEP", "Array", "Edit", "attribute", "constant", "nodes_of", "rank", "step_of"]

Array = np.ndarray[Any, Any]
STEP = "hyle.step"


class Edit:
    """Collects the nodes that take the place of `node`, in whichever graph it is; `finish` puts them in.

    New constants are initializers of the main graph.
    """

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self._main, self.node = model.graph, node
        self._around: Any = node.graph
        self._stem = f"{node.outputs[0].name}#{node.op_type}"
        self._new: list[ir.Node] = []
        self._count = 0

    def constant(self, array: Any, step: Array | None = None) -> ir.Value:
        """A new initializer; `step` is what one of its integers stands for (a scalar or one a column)."""
        name = self._name()
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.numpy().shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        if step is not None:
            value.meta[STEP] = step
        self._main.register_initializer(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """A new node; its output, or a list of them."""
        node = ir.node(op_type, list(inputs), attributes, num_outputs=outputs, name=name or self._name())
        for output in node.outputs:
            output.name = self._name()
            output.type = _type(op_type, inputs, attributes)
        self._new.append(node)
        return node.outputs[0] if outputs == 1 else list(node.outputs)

    def stem(self, word: str) -> str:
        """A name that no other value has, made of the node's and `word`."""
        return f"{self._name()}#{word}"

    def finish(self, *outputs: ir.Value) -> None:
        """Replace the node; `outputs` take the place of its own, in order."""
        old = self.node
        for before, after in zip(old.outputs, outputs, strict=True):
            after.shape, after.type, name = before.shape, before.type or after.type, before.name
            before.name = f"{name}#replaced"
            after.name = name
        ir.convenience.replace_nodes_and_values(self._around, old, [old], self._new, list(old.outputs), list(outputs))

    def _name(self) -> str:
        self._count += 1
        return f"{self._stem}#{self._count}"


def _type(op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]) -> ir.TypeProtocol | None:
    """Element type of what these operators give: the first input's, but for conversions."""
    if op_type == "Cast":
        return ir.TensorType(attributes["to"])
    if op_type in ("Shape", "ArgMax"):
        return ir.TensorType(ir.DataType.INT64)
    if op_type == "DequantizeLinear":
        return ir.TensorType(ir.DataType.FLOAT)
    like = inputs[2] if op_type == "QuantizeLinear" else inputs[0]
    return None if like is None else like.type


def nodes_of(model: ir.Model, *op_types: str) -> list[ir.Node]:
    """Nodes with one of these operators of the standard domain, those in subgraphs included."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return [node for node in nodes if node.op_type in op_types and node.domain in ("", "ai.onnx")]


def constant(value: ir.Value | None) -> Array | None:
    """A constant's array, or None for what is computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def step_of(value: ir.Value) -> Array | None:
    """What one integer of a weight stands for, where it came from integers: a scalar, or one value a column."""
    step: Array | None = value.meta.get(STEP)
    return step


def rank(value: ir.Value | None) -> int | None:
    """How many dimensions a value has, or None where that is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value
