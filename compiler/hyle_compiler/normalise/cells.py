"""One step of LSTM, GRU and RNN as the body of a Scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.normalise.edit import Array, attribute

__all__ = ["CELLS", "DEFAULTS", "Body", "Cell", "activation_names"]

DEFAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "softsign": ("Softsign", {}),
    "softplus": ("Softplus", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "leakyrelu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
}


@dataclass(frozen=True, slots=True)
class _Kind:
    gates: int
    states: int
    functions: int
    usual: tuple[str, ...]


CELLS = {
    "LSTM": _Kind(4, 2, 3, ("sigmoid", "tanh", "tanh")),
    "GRU": _Kind(3, 1, 2, ("sigmoid", "tanh")),
    "RNN": _Kind(1, 1, 1, ("tanh",)),
}


def activation_names(node: ir.Node) -> list[str]:
    """Activation functions of all directions, in lower case."""
    kind = CELLS[node.op_type]
    count = 2 if attribute(node, "direction", "forward") == "bidirectional" else 1
    given = [str(name).lower() for name in attribute(node, "activations", ())]
    return given or list(kind.usual) * count


class Body:
    """Collects the nodes of a Scan's body; constants are initializers of the main graph."""

    def __init__(self, stem: str, constant: Callable[[Any], ir.Value]) -> None:
        self._stem, self.constant = stem, constant
        self.nodes: list[ir.Node] = []
        self.inputs: list[ir.Value] = []

    def input(self, columns: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """An input, batch by columns."""
        value = ir.Value(
            name=f"{self._stem}#in{len(self.inputs)}", shape=ir.Shape([None, columns]), type=ir.TensorType(dtype)
        )
        self.inputs.append(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """A new node of float32 results; its output, or a list of them."""
        label = f"{self._stem}#{len(self.nodes)}"
        node = ir.node(op_type, list(inputs), attributes, num_outputs=outputs, name=name or label)
        for number, output in enumerate(node.outputs):
            output.name, output.type = f"{label}#{number}", ir.TensorType(ir.DataType.FLOAT)
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else list(node.outputs)

    def split(self, value: ir.Value, parts: int, hidden: int) -> list[ir.Value]:
        """Cut the columns into equal parts."""
        if parts == 1:
            return [value]
        sizes = self.constant(np.full(parts, hidden, dtype=np.int64))
        made: list[ir.Value] = self.op("Split", value, sizes, outputs=parts, axis=1)
        return made


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One direction of a recurrent operator.

    `recurrent` is (gates x hidden) by hidden, `bias` the recurrent bias, `peephole` (3 x hidden) for an LSTM or None;
    `functions` the activation functions from this direction's first on.
    """

    node: ir.Node
    hidden: int
    recurrent: Array
    bias: Array
    peephole: Array | None
    functions: Sequence[str]
    name: str

    @property
    def outer_bias(self) -> Array:
        """What of the recurrent bias may be added to the driven part: all but a GRU's that its reset gate scales."""
        kept = self.bias.copy()
        if self._linear:
            kept[2 * self.hidden :] = 0.0
        return kept

    @property
    def _linear(self) -> bool:
        return self.node.op_type == "GRU" and bool(attribute(self.node, "linear_before_reset", 0))

    def graph(self, body: Body, masked: bool, opset: int) -> ir.Graph:
        """The body: states, driven row and perhaps a mask in; new states and the step's answer out."""
        kind = CELLS[self.node.op_type]
        states = [body.input(self.hidden) for _ in range(kind.states)]
        driven = body.input(kind.gates * self.hidden)
        mask = body.input(1, ir.DataType.BOOL) if masked else None
        made = self._step(body, driven, states)
        answer = made[0]
        if mask is not None:
            made = [body.op("Where", mask, new, old) for new, old in zip(made, states, strict=True)]
            answer = body.op("Where", mask, answer, body.constant(np.zeros((1, 1), dtype=np.float32)))
        else:
            answer = body.op("Identity", answer)
        outputs = [*made, answer]
        for value in outputs:
            value.shape = ir.Shape([None, self.hidden])
        return ir.Graph(body.inputs, outputs, nodes=body.nodes, opset_imports={"": opset}, name=f"{self.name}_step")

    def _step(self, body: Body, driven: ir.Value, states: Sequence[ir.Value]) -> list[ir.Value]:
        if self.node.op_type == "LSTM":
            return self._lstm(body, driven, *states)
        return (self._gru if self.node.op_type == "GRU" else self._rnn)(body, driven, *states)

    def _act(self, body: Body, which: int, value: ir.Value) -> ir.Value:
        op_type, parameters = DEFAULTS[self.functions[which]]
        made: ir.Value = body.op(op_type, value, **parameters)
        return made

    def _product(self, body: Body, state: ir.Value, rows: slice, word: str) -> ir.Value:
        weight = body.constant(np.ascontiguousarray(self.recurrent[rows].T))
        made: ir.Value = body.op("MatMul", state, weight, name=f"{self.name}_{word}")
        return made

    def _rnn(self, body: Body, driven: ir.Value, state: ir.Value) -> list[ir.Value]:
        product = self._product(body, state, slice(None), "recurrent")
        return [self._act(body, 0, body.op("Add", driven, product))]

    def _lstm(self, body: Body, driven: ir.Value, state: ir.Value, memory: ir.Value) -> list[ir.Value]:
        h = self.hidden
        total = body.op("Add", driven, self._product(body, state, slice(None), "recurrent"))
        gate_i, gate_o, gate_f, gate_c = body.split(total, 4, h)
        i = self._act(body, 0, self._peep(body, gate_i, memory, 0))
        f = self._act(body, 0, self._peep(body, gate_f, memory, 2))
        kept = body.op("Mul", f, memory)
        new = body.op("Add", kept, body.op("Mul", i, self._act(body, 1, gate_c)))
        o = self._act(body, 0, self._peep(body, gate_o, new, 1))
        return [body.op("Mul", o, self._act(body, 2, new)), new]

    def _peep(self, body: Body, gate: ir.Value, memory: ir.Value, place: int) -> ir.Value:
        if self.peephole is None:
            return gate
        row = self.peephole[place * self.hidden : (place + 1) * self.hidden]
        made: ir.Value = body.op("Add", gate, body.op("Mul", memory, body.constant(row)))
        return made

    def _gru(self, body: Body, driven: ir.Value, state: ir.Value) -> list[ir.Value]:
        h = self.hidden
        drive_z, drive_r, drive_h = body.split(driven, 3, h)
        if self._linear:
            product = self._product(body, state, slice(None), "recurrent")
            turn_z, turn_r, turn_h = body.split(product, 3, h)
        else:
            turn_z, turn_r = body.split(self._product(body, state, slice(0, 2 * h), "recurrent"), 2, h)
        z = self._act(body, 0, body.op("Add", drive_z, turn_z))
        r = self._act(body, 0, body.op("Add", drive_r, turn_r))
        if self._linear:
            inner = body.op("Mul", r, body.op("Add", turn_h, body.constant(self.bias[2 * h :])))
        else:
            inner = self._product(body, body.op("Mul", r, state), slice(2 * h, None), "recurrent_hidden")
        candidate = self._act(body, 1, body.op("Add", drive_h, inner))
        difference = body.op("Sub", state, candidate)
        return [body.op("Add", candidate, body.op("Mul", z, difference))]
