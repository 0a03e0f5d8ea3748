"""Let the bodies of a twin read their noise from a table instead of drawing it.

A drawn deviate costs about 7 ns in onnxruntime, a read one a twentieth of that. program.onnx goes on drawing; only
twin.onnx, for which an agent supplies the table (`hyle_substrates.deviates`, times the noise of a read), is rewritten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_bundle.manifest import Layer
from hyle_runtime.placement import DEVIATES
from hyle_substrates.deviates import RUN, RUNS

__all__ = ["read_noise_from_table"]

_SHAPE_OF_PART = 15  # the opset from which Shape can tell one axis alone


@dataclass(frozen=True, slots=True)
class _Reads:
    """Reads of one layer's blocks whose places in the table are drawn for all layers at once.

    Attributes:
        values: Values of one sample's read.
        shape: A read's shape without its first axis, the samples.
        batch: The graph's input that has as many samples.
    """

    values: int
    shape: tuple[int, ...]
    batch: ir.Value

    @property
    def runs(self) -> int:
        """Runs of the table that one sample's read takes."""
        return -(-self.values // RUN)


def read_noise_from_table(
    model: ir.Model, layers: Mapping[str, Layer], calls: Iterable[ir.Node], table: ir.Value
) -> None:
    """Rewrite every body that draws, and hand the table to its calls.

    Places in the table are drawn once for all layers of the graph whose reads' sizes are known; a layer within control
    flow, or of unknown size, draws its own.

    Args:
        model: The model; changed in place.
        layers: The layers by name.
        calls: The nodes that call the bodies, wherever they stand.
        table: What they are to read, `RUNS` by `RUN`.
    """
    found = list(calls)
    callers = Counter(call.op_identifier() for call in found)
    rewritten: dict[ir.OperatorIdentifier, tuple[int, _Reads | None]] = {}
    together: dict[ir.Value, list[tuple[ir.Node, _Reads]]] = {}
    for call in found:
        key = call.op_identifier()
        if key not in rewritten:
            layer, function = layers[call.name or ""], model.functions[key]
            draws = _draws(function)
            width = _width(layer, len(draws))
            reads = _reads(model, call, layer, width) if callers[key] == 1 else None
            _rewrite(function, draws, reads, whole=_values(call, width) % RUN == 0)
            rewritten[key] = len(draws), reads
        drawn, reads = rewritten[key]
        if drawn:
            _give(call, table)
        if drawn and reads is not None:
            together.setdefault(reads.batch, []).extend([(call, reads)] * drawn)
    for number, (batch, some) in enumerate(together.items()):
        _draw(model.graph, batch, some, f"hyle.physical/places{number}_")


def _draws(function: ir.Function) -> list[ir.Node]:
    return [node for node in function if node.op_type == "RandomNormalLike"]


def _width(layer: Layer, draws: int) -> int:
    """How many times a layer's columns one read is wide, for its copies and the blocks that are read together."""
    passes = 2 if layer.polarity == "two-pass" else 1
    return layer.blocks[0].col_copies * len(layer.blocks) * passes // draws if draws else 1


def _reads(model: ir.Model, call: ir.Node, layer: Layer, width: int) -> _Reads | None:
    """How a layer's places can be drawn with those of others; None if they cannot."""
    shape = list(call.outputs[0].shape or ())
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    if call.graph is not model.graph or len(sizes) + 1 != len(shape) or not sizes:
        return None
    if model.opset_imports[""] < _SHAPE_OF_PART:
        return None
    samples = shape[0] if isinstance(shape[0], int) else shape[0].value
    batches = [x for x in model.graph.inputs if x.shape and x.shape.rank() and x.shape[0] == samples]
    if samples is None or not batches:
        return None
    # Copies lie side by side, along the channels of a convolution.
    sizes[-1 if layer.convolution is None else 0] *= width
    return _Reads(prod(sizes), tuple(sizes), batches[0])


def _give(call: ir.Node, value: ir.Value) -> None:
    call.resize_inputs(len(call.inputs) + 1)
    call.replace_input_with(len(call.inputs) - 1, value)


def _draw(graph: ir.Graph, batch: ir.Value, reads: Sequence[tuple[ir.Node, _Reads]], prefix: str) -> None:
    """Draw the places of all reads, before everything else, and hand each its own."""
    tape = _Nodes(prefix)
    runs = [one.runs for _, one in reads]
    samples = tape.add("Shape", batch, start=0, end=1)
    size = tape.add("Concat", samples, tape.constant([sum(runs)]), axis=0)
    places = tape.split(tape.places(tape.add("ConstantOfShape", size)), runs)
    graph.insert_before(graph[0], tape.nodes)
    for (call, _), place in zip(reads, places, strict=True):
        _give(call, place)


def _values(call: ir.Node, width: int) -> int:
    """How many values one sample's read of a block has; 1 where that is not known."""
    shape = call.outputs[0].shape
    dimensions = list(shape)[1:] if shape is not None else []
    sizes = [size for size in dimensions if isinstance(size, int)]
    return prod(sizes) * width if sizes and len(sizes) == len(dimensions) else 1


def _rewrite(function: ir.Function, draws: Sequence[ir.Node], reads: _Reads | None, *, whole: bool) -> None:
    """Let a body read what it draws."""
    if not draws:
        return
    table = ir.Value(name=DEVIATES)
    function.inputs.append(table)
    noise = next(value for value in function.inputs if value.name == "noise")
    for number, node in enumerate(draws):
        total, deviate = node.inputs[0], node.outputs[0]
        prefix = f"deviate_{number}_"
        if reads is None:
            nodes = _read(total, table, prefix, whole=whole)  # type: ignore[arg-type]
        else:
            given = ir.Value(name=f"given_{number}")
            function.inputs.append(given)
            nodes = _read_at(given, table, prefix, reads)
        # The table is scaled already; only a noise that depends on the signal is still multiplied.
        scaled = [use for use, _ in deviate.uses() if use.op_type == "Mul" and noise in use.inputs]
        old = [node, *scaled]
        last = scaled[0].outputs[0] if scaled else deviate
        ir.convenience.replace_nodes_and_values(function.graph, node, old, nodes, [last], [nodes[-1].outputs[0]])


class _Nodes:
    """Collects nodes, named one after another."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[ir.Node] = []

    def add(self, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self._append(ir.node(op, list(inputs), attributes))[0]

    def constant(self, values: Sequence[int]) -> ir.Value:
        return self.add("Constant", value=ir.tensor(np.array(values, dtype=np.int64)))

    def split(self, value: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
        """Cut along the second axis."""
        if len(sizes) == 1:
            return [value]
        return self._append(ir.node("Split", [value, self.constant(sizes)], {"axis": 1}, num_outputs=len(sizes)))

    def places(self, blank: ir.Value) -> ir.Value:
        """As many places in the table as `blank` has values, in its shape."""
        # A uniform float32 may round up to the bound itself, so that it is the last number below the table's end.
        below = float(np.nextafter(np.float32(RUNS), np.float32(0)))
        place = self.add("RandomUniformLike", blank, low=0.0, high=below, dtype=ir.DataType.FLOAT)
        return self.add("Cast", place, to=ir.DataType.INT64)

    def _append(self, node: ir.Node) -> list[ir.Value]:
        node.name = f"{self._prefix}{len(self.nodes)}"
        for number, output in enumerate(node.outputs):
            output.name = f"{node.name}_{number}" if number else node.name
        self.nodes.append(node)
        return list(node.outputs)


def _read_at(place: ir.Value, table: ir.Value, prefix: str, reads: _Reads) -> list[ir.Node]:
    """Nodes that gather a read's deviates; each sample has runs of its own, of which the last may be cut."""
    tape = _Nodes(prefix)
    read = tape.add("Gather", table, place, axis=0)
    if reads.values % RUN:
        flat = tape.add("Reshape", read, tape.constant([0, reads.runs * RUN]))
        ends = [tape.constant([value]) for value in (0, reads.values, 1)]
        read = tape.add("Slice", flat, *ends)
    tape.add("Reshape", read, tape.constant([-1, *reads.shape]))
    return tape.nodes


def _read(total: ir.Value, table: ir.Value, prefix: str, *, whole: bool) -> list[ir.Node]:
    """Nodes that gather as many deviates as `total` has values, in its shape; `whole` if these are whole runs."""
    tape = _Nodes(prefix)
    size = tape.add("Reshape", tape.add("Size", total), tape.constant([1]))
    padded = size if whole else tape.add("Add", size, tape.constant([RUN - 1]))
    places = tape.places(tape.add("ConstantOfShape", tape.add("Div", padded, tape.constant([RUN]))))
    read = tape.add("Gather", table, places, axis=0)
    if not whole:
        flat = tape.add("Reshape", read, tape.constant([-1]))
        read = tape.add("Slice", flat, tape.constant([0]), size)
    tape.add("Reshape", read, tape.add("Shape", total))
    return tape.nodes
