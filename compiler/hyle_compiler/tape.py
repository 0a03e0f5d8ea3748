"""A function of standard operators, written node by node, or traced from what the physics says in NumPy's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ndonnx as ndx
import numpy as np
import onnx_ir as ir
from onnxscript import rewriter
from onnxscript.rewriter.rules.common import _min_max_to_clip

from hyle_compiler.segments import DOMAIN

__all__ = ["CONVERTERS", "Converter", "Tape"]

CONVERTERS = "converters"


@dataclass(frozen=True, slots=True)
class Converter:
    """Nodes of a body that are one converter's work; a body lists them under `CONVERTERS` of its `meta`.

    Attributes:
        kind: "Drive" from values to DAC codes, "Read" from column sums to values.
        nodes: The nodes, in order.
        inputs: What they read, by the role it has there; a deviate, which other nodes may give later, is left out.
        outputs: What they give.
        attributes: Whole numbers that say what is done.
    """

    kind: str
    nodes: tuple[ir.Node, ...]
    inputs: Mapping[str, ir.Value]
    outputs: tuple[ir.Value, ...]
    attributes: Mapping[str, int]


class Tape:
    """Collects the nodes of one function, and notes which of them are a converter's work.

    Args:
        opset: Version of the standard operators.

    Attributes:
        converters: What was noted, in the order of the nodes.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.converters: list[Converter] = []
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._count = 0

    @property
    def here(self) -> int:
        """How many nodes there are."""
        return len(self._nodes)

    def place(self, node: ir.Node) -> int:
        """How many nodes come before one of them."""
        return self._nodes.index(node)

    def convert(
        self,
        kind: str,
        first: int,
        inputs: Mapping[str, ir.Value],
        outputs: tuple[ir.Value, ...],
        attributes: Mapping[str, int],
    ) -> None:
        """Note that all nodes from a place on are a converter's work."""
        self.converters.append(Converter(kind, tuple(self._nodes[first:]), inputs, outputs, attributes))

    def input(self, name: str) -> ir.Value:
        """Add an input of the function."""
        value = ir.Value(name=name)
        self._inputs.append(value)
        return value

    def constant(self, array: Any) -> ir.Value:
        """Add a constant."""
        name = self._name()
        return self._add(ir.node("Constant", [], {"value": ir.tensor(np.asarray(array), name=name)}, name=name), name)

    def op(self, op_type: str, *inputs: ir.Value, output: str | None = None, **attributes: Any) -> ir.Value:
        """Add an operator with one output, which is given a name of its own unless it has one."""
        name = output or self._name()
        return self._add(ir.node(op_type, list(inputs), attributes, name=name), name)

    def inline(self, function: Callable[..., Any], *arguments: ir.Value) -> ir.Value:
        """Add what a function of the Array API does with float32 arrays."""
        graph = _trace(function, len(arguments))
        known: dict[str, ir.Value] = {f"a{i}": value for i, value in enumerate(arguments)}
        for name, value in graph.initializers.items():
            known[name] = self.constant(np.asarray(value.const_value))
        for node in graph:
            inputs = [None if value is None else known[str(value.name)] for value in node.inputs]
            name = self._name()
            copy = ir.node(node.op_type, inputs, {a.name: a.value for a in node.attributes.values()}, name=name)
            known[str(node.outputs[0].name)] = self._add(copy, name)
        return known["result"]

    def function(self, name: str) -> ir.Function:
        """Return the function; its result is the last node's output."""
        graph = ir.Graph(
            self._inputs, [self._nodes[-1].outputs[0]], nodes=self._nodes, opset_imports={"": self.opset}, name=name
        )
        function = ir.Function(DOMAIN, name, graph=graph, attributes=[])
        function.meta[CONVERTERS] = tuple(self.converters)
        return function

    def _name(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def _add(self, node: ir.Node, name: str) -> ir.Value:
        node.outputs[0].name = name
        self._nodes.append(node)
        return node.outputs[0]


def _trace(function: Callable[..., Any], count: int) -> ir.Graph:
    """Graph of a function of `count` float32 arrays; what was traced once with the same closure is not traced again."""
    closure = tuple(repr(cell.cell_contents) for cell in function.__closure__ or ())
    key = (function.__code__, closure, count)
    if key not in _TRACES:
        _TRACES[key] = _traced(function, count)
    return _TRACES[key]


_TRACES: dict[tuple[Any, ...], ir.Graph] = {}


def _traced(function: Callable[..., Any], count: int) -> ir.Graph:
    arguments = [ndx.argument(shape=("N",), dtype=ndx.float32) for _ in range(count)]
    built = ndx.build({f"a{i}": argument for i, argument in enumerate(arguments)}, {"result": function(*arguments)})
    # A limit on both sides is two operators when it is traced; one pass over the values does for both.
    return rewriter.rewrite(ir.from_proto(built), pattern_rewrite_rules=_min_max_to_clip.rules).graph
