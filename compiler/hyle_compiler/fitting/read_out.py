"""Matter between a fixed encoder and a trained read-out: how reservoirs are used, as one ONNX model.

input → encoder (matrix, digital) → matter → read-out (linear, digital). Only the read-out is trained, by ridge
regression on what the matter answered to the training samples. Source: Jaeger & Haas 2004, Science 304, 78.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from hyle_bundle.atomic import replacing
from hyle_errors import CallerError
from hyle_substrates.driver import BlackBox
from hyle_substrates.fit_record import FitRecord

from hyle_compiler.bodies import DOMAIN
from hyle_compiler.box_function import BoundTwin
from hyle_compiler.boxes import bind_twin
from hyle_compiler.errors import CalibrationError
from hyle_compiler.fitting.graph import OPSET, read_fit
from hyle_compiler.fitting.ridge import ridge

__all__ = ["Encoder", "ReadOut", "read_out"]

Array = np.ndarray[Any, Any]
INPUT, OUTPUT = "x", "scores"
FILL = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """What the matter is driven with: x · `matrix` + `bias`, features by inputs."""

    matrix: Array
    bias: Array

    @classmethod
    def over(cls, x: Array, record: FitRecord, seed: int = 0) -> Encoder:
        """Fill a device's range with samples: as they are where sizes agree, else by a random mixture of them."""
        features = x.shape[1]
        if features == record.inputs:
            mixture = np.eye(features)
        else:
            rng = np.random.default_rng([seed, 0x656E63])
            mixture = rng.standard_normal((features, record.inputs)) / np.sqrt(features)
        driven = x @ mixture
        low, high = driven.min(axis=0), driven.max(axis=0)
        if features == record.inputs:
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        scale = FILL * (record.high - record.low) / np.where(high > low, high - low, 1.0)
        centre = (record.high + record.low) / 2.0
        return cls(mixture * scale, centre - scale * (high + low) / 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class ReadOut:
    """A trained model: its file, the error it was chosen by, and what the matter answered (samples by outputs)."""

    path: Path
    validation_error: float
    answers: Array


def read_out(
    twin: Path,
    x: Array,
    targets: Array,
    out: Path,
    *,
    box: BlackBox | None = None,
    encoder: Encoder | None = None,
    parameters: Array | None = None,
    bypass: bool = False,
    seed: int = 0,
) -> ReadOut:
    """Train a read-out and write the model; it runs on any ONNX runtime, and compiles for the device.

    Args:
        twin: What `hyle fit` wrote.
        x: Training samples by features.
        targets: One label a sample (integers), or samples by wanted outputs (floats).
        out: The ONNX model to write, from `x` to `scores`.
        box: The device, to train on what it answers; its twin's answers by default.
        encoder: By default one that fills the device's range.
        parameters: The matter's, as many as it has; the middle of the range by default.
        bypass: Whether the read-out sees the features too.
        seed: Seed of the encoder and of the split by which the penalty is chosen.

    Raises:
        CallerError: Sizes do not fit, or a value is not finite.
        DeviceError: The device did not answer.
    """
    record, model = read_fit(twin)
    x = np.asarray(x, dtype=np.float64)
    wanted = _wanted(np.asarray(targets))
    if x.ndim != 2 or len(x) != len(wanted) or len(x) < 10 or not (np.isfinite(x).all() and np.isfinite(wanted).all()):
        raise CalibrationError(
            f"Samples of shape {x.shape} and targets of shape {np.shape(targets)} do not serve.",
            remedy="Give at least ten samples by features, finite, and one target for each.",
        )
    encoder = encoder or Encoder.over(x, record, seed)
    if encoder.matrix.shape != (x.shape[1], record.inputs) or encoder.bias.shape != (record.inputs,):
        raise CalibrationError(
            f"An encoder of shape {encoder.matrix.shape} does not lead from {x.shape[1]} features to {record.inputs}.",
            remedy="Give features by inputs, and one bias for each input.",
        )
    held = (
        np.full(record.parameters, (record.low + record.high) / 2.0) if parameters is None else np.asarray(parameters)
    )
    driven = np.clip(x @ encoder.matrix + encoder.bias, record.low, record.high)
    answers = _answers(twin, record, box, held, driven)
    seen = np.concatenate([x, answers], axis=1) if bypass else answers
    last = np.random.default_rng([seed, 0x726F]).permutation(len(x)) < len(x) // 5
    matrix, offset, error = ridge((seen[~last], wanted[~last]), (seen[last], wanted[last]))
    made = _model(BoundTwin.of(record, model), encoder, held, matrix, offset, bypass=bypass)
    with replacing(out) as file:
        file.write(ir.to_proto(made).SerializeToString(deterministic=True))
    return ReadOut(out, float(error.mean()), answers)


def _wanted(targets: Array) -> Array:
    if targets.dtype.kind not in "iu":
        return targets.reshape(len(targets), -1).astype(np.float64)
    labels = targets.reshape(len(targets))
    if labels.min(initial=0) < 0:
        raise CalibrationError("A label is negative.", remedy="Number the classes from 0.")
    return np.eye(int(labels.max(initial=0)) + 1)[labels]


def _answers(twin: Path, record: FitRecord, box: BlackBox | None, parameters: Array, driven: Array) -> Array:
    given = np.broadcast_to(parameters, (len(driven), record.parameters))
    if box is not None:
        return np.asarray(box.respond(np.ascontiguousarray(given, dtype=np.float64), driven))
    session = ort.InferenceSession(str(twin), providers=["CPUExecutionProvider"])
    feed = {"inputs": driven.astype(np.float32)}
    feed |= {"parameters": given.astype(np.float32)} if record.parameters else {}
    try:
        return np.asarray(session.run(None, feed)[0], dtype=np.float64)
    except Exception as error:
        raise CallerError(f"{twin.name} does not run.", remedy="Make it anew with `hyle fit`.") from error


def _model(
    twin: BoundTwin, encoder: Encoder, parameters: Array, matrix: Array, offset: Array, *, bypass: bool
) -> ir.Model:
    record = twin.record
    constants: list[ir.Value] = []

    def constant(name: str, array: Array) -> ir.Value:
        tensor = ir.tensor(np.ascontiguousarray(array, dtype=np.float32), name=name)
        constants.append(
            ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
        return constants[-1]

    def value(name: str, columns: int) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(["N", columns]), type=ir.TensorType(ir.DataType.FLOAT))

    x = value(INPUT, encoder.matrix.shape[0])
    driven, answer, seen = value("driven", record.inputs), value("answer", record.outputs), value("seen", len(matrix))
    scores = value(OUTPUT, matrix.shape[1])
    given = [driven, *([constant("parameters", parameters)] if record.parameters else [])]
    nodes = [
        ir.node(
            "Gemm", [x, constant("encoder", encoder.matrix), constant("encoder_bias", encoder.bias)], outputs=[driven]
        ),
        ir.node(record.name, given, domain=DOMAIN, outputs=[answer], name=record.name),
    ]
    if bypass:
        nodes.append(ir.node("Concat", [x, answer], {"axis": 1}, outputs=[seen]))
    last = seen if bypass else answer
    nodes.append(
        ir.node("Gemm", [last, constant("read_out", matrix), constant("read_out_bias", offset)], outputs=[scores])
    )
    for name, node in zip(("encode", record.name, "join" if bypass else "read", "read"), nodes, strict=False):
        node.name = name
    graph = ir.Graph(
        [x], [scores], nodes=nodes, initializers=constants, opset_imports={"": OPSET, DOMAIN: 1}, name="read_out"
    )
    made = ir.Model(graph, ir_version=10, producer_name="hyle")
    bind_twin(made, twin)
    return made
