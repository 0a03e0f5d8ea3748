"""Compile damaged copies of a model in this process; one JSON line a file, so that a crash is a missing line."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from hyle.cli import main

LIMIT_S = 30


def flip(data: bytearray, rng: np.random.Generator) -> bytes:
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def flip_structure(data: bytearray, rng: np.random.Generator) -> bytes:
    """Flip bits outside of the weights: the first and last bytes hold nodes, names, shapes."""
    for _ in range(int(rng.integers(1, 5))):
        near = int(rng.integers(min(400, len(data))))
        data[near if rng.random() < 0.5 else -1 - near] ^= 1 << int(rng.integers(8))
    return bytes(data)


def cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: int(rng.integers(len(data)))])


def swap(data: bytearray, rng: np.random.Generator) -> bytes:
    a, b = (int(i) for i in rng.integers(0, len(data) - 32, 2))
    data[a : a + 32], data[b : b + 32] = data[b : b + 32], data[a : a + 32]
    return bytes(data)


def cycle(data: bytearray, rng: np.random.Generator) -> bytes:
    model = onnx.load_from_string(bytes(data))
    nodes = model.graph.node
    nodes[int(rng.integers(len(nodes)))].input[0] = nodes[-1].output[0]
    return bytes(model.SerializeToString())


def absurd_shape(data: bytearray, rng: np.random.Generator) -> bytes:
    model = onnx.load_from_string(bytes(data))
    shaped = [tensor for tensor in model.graph.initializer if tensor.dims]
    tensor = shaped[int(rng.integers(len(shaped)))]
    tensor.dims[0] = int(rng.choice([-1, 0, 2**31, 2**62, 7]))
    return bytes(model.SerializeToString())


def swapped_fields(data: bytearray, rng: np.random.Generator) -> bytes:
    model = onnx.load_from_string(bytes(data))
    node = model.graph.node[int(rng.integers(len(model.graph.node)))]
    node.op_type = str(rng.choice(["Conv", "Gemm", "Reshape", "LSTM", "If", "Loop", ""]))
    return bytes(model.SerializeToString())


def climbing_path(data: bytearray, rng: np.random.Generator) -> bytes:
    model = onnx.load_from_string(bytes(data))
    tensor = model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    place = str(rng.choice(["../../../etc/passwd", "/etc/passwd", "nowhere.bin", "calib.npz", ""]))
    for key, value in {"location": place, "offset": "0", "length": str(int(rng.choice([0, 4, 2**60])))}.items():
        tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def bomb(data: bytearray, rng: np.random.Generator) -> bytes:
    """A few bytes that ask for terabytes."""
    model = onnx.load_from_string(bytes(data))
    shape = helper.make_tensor("huge", TensorProto.INT64, [2], [2**22, 2**20])
    model.graph.initializer.append(shape)
    first = model.graph.input[0].name
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["zeros"]))
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0))
    model.graph.node.insert(2, helper.make_node("Add", [first, "sum"], ["more"]))
    for node in list(model.graph.node)[3:]:
        for i, name in enumerate(node.input):
            if name == first:
                node.input[i] = "more"
    return bytes(model.SerializeToString())


DAMAGE = (flip, flip_structure, cut, swap, cycle, absurd_shape, swapped_fields, climbing_path, bomb)


def run(source: Path, calibration: Path, folder: Path, start: int, stop: int) -> None:
    whole = source.read_bytes()
    for seed in range(start, stop):
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        rng = np.random.default_rng(seed)
        damage = DAMAGE[seed % len(DAMAGE)]
        model, out = folder / "model.onnx", folder / "out" / "m.hyle"
        model.write_bytes(damage(bytearray(whole), rng))
        out.unlink(missing_ok=True)
        arguments = [str(model), "--target", "ideal", "--calib", str(calibration), "-o", str(out), "--name", "m"]
        said, answered = io.StringIO(), io.StringIO()
        begun = time.monotonic()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(answered):
            code = main(["compile", *arguments, "--json"])
        took = time.monotonic() - begun
        text = said.getvalue() + answered.getvalue()
        outcome = {"seed": seed, "damage": damage.__name__, "code": code, "seconds": took, "written": out.exists()}
        print(json.dumps(outcome | {"text": text[-600:], "traceback": "Traceback" in text}), flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
