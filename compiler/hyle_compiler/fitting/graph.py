"""The fitted twin as an ONNX file of standard operators, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from hyle_substrates.fit_record import KEY, FitError, FitRecord, decode_record, encode_record

from hyle_compiler.fitting.twin import Twin
from hyle_compiler.read import read_model

__all__ = ["OPSET", "read_fit", "twin_model"]

OPSET = 17
IR_VERSION = 10


def twin_model(twin: Twin, record: FitRecord) -> ir.Model:
    """Write a twin as a model.

    Its inputs are `parameters` (samples by parameters; absent if there are none) and `inputs` (samples by inputs), its
    output `outputs`, all single precision. Values out of range are cut, as the host cuts them before a device.
    """
    writer = _Writer()
    columns = [("parameters", record.parameters), ("inputs", record.inputs)]
    given = [writer.input(name, size) for name, size in columns if size]
    values = given[0] if len(given) == 1 else writer.op("Concat", *given, axis=-1)
    cut = writer.op("Clip", values, writer.number("low", twin.low), writer.number("high", twin.high))
    scale = 2.0 / (twin.high - twin.low)
    scaled = writer.op("Mul", cut, writer.number("scale", scale))
    u = writer.op("Add", scaled, writer.number("centre", -1.0 - twin.low * scale))
    features = _features(writer, twin, u)
    product = writer.op("MatMul", features, writer.array("matrix", twin.matrix.astype(np.float32)))
    last = writer.op("Add", product, writer.array("offset", twin.offset.astype(np.float32)))
    return writer.model(given, last, record)


def _features(writer: _Writer, twin: Twin, u: ir.Value) -> ir.Value:
    features, parts = twin.features, [u]
    if features.powers:
        square = writer.op("Mul", u, u)
        parts += [square, writer.op("Mul", square, u), writer.op("Abs", u)]
    if features.pairs is not None:
        sides = [writer.array(f"factor_{i}", features.pairs[i].astype(np.int64)) for i in (0, 1)]
        parts.append(writer.op("Mul", *(writer.op("Gather", u, side, axis=-1) for side in sides)))
    if features.projection is not None and features.shift is not None:
        inner = writer.op("MatMul", u, writer.array("projection", features.projection.astype(np.float32)))
        parts.append(
            writer.op("Tanh", writer.op("Add", inner, writer.array("shift", features.shift.astype(np.float32))))
        )
    return parts[0] if len(parts) == 1 else writer.op("Concat", *parts, axis=-1)


class _Writer:
    def __init__(self) -> None:
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []

    def input(self, name: str, size: int) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(["N", size]), type=ir.TensorType(ir.DataType.FLOAT))

    def number(self, name: str, value: float) -> ir.Value:
        return self.array(name, np.float32(value))

    def array(self, name: str, value: Any) -> ir.Value:
        tensor = ir.tensor(np.asarray(value), name=name)
        made = ir.Value(
            name=name, shape=ir.Shape(np.shape(value)), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._constants.append(made)
        return made

    def op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes, name=f"{op_type.lower()}_{len(self._nodes)}")
        node.outputs[0].name = f"v{len(self._nodes)}"
        self._nodes.append(node)
        return node.outputs[0]

    def model(self, inputs: list[ir.Value], output: ir.Value, record: FitRecord) -> ir.Model:
        output.name, output.type = "outputs", ir.TensorType(ir.DataType.FLOAT)
        output.shape = ir.Shape(["N", record.outputs])
        graph = ir.Graph(
            inputs,
            [output],
            nodes=self._nodes,
            initializers=self._constants,
            opset_imports={"": OPSET},
            name=record.name,
        )
        made = ir.Model(graph, ir_version=IR_VERSION, producer_name="hyle")
        made.metadata_props[KEY] = encode_record(record)
        return made


def read_fit(path: Path) -> tuple[FitRecord, ir.Model]:
    """Read a fitted twin.

    Raises:
        ModelError: It is missing or no ONNX model.
        FitError: It is not what `hyle fit` writes.
    """
    model = read_model(path)
    if KEY not in model.metadata_props:
        raise FitError(f"{path.name} is no fitted twin.", remedy="Make one with `hyle fit`.")
    record = decode_record(model.metadata_props[KEY], path.name)
    sizes = {str(v.name): None if v.shape is None else v.shape[-1] for v in (*model.graph.inputs, *model.graph.outputs)}
    wanted = {"inputs": record.inputs, "outputs": record.outputs}
    wanted |= {"parameters": record.parameters} if record.parameters else {}
    if sizes != wanted:
        raise FitError(f"{path.name} contradicts itself.", remedy="Make it anew with `hyle fit`.")
    return record, model
