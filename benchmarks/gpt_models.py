"""GPT-shaped ONNX models of any size, with external data whose weights are a function of their name.

    python benchmarks/gpt_models.py FOLDER --size 0.1 [--dtype float16] [--filled 1.0] [--shard-gb 8]

Every tensor is drawn from a counter-based generator keyed by its name (Philox 4x64), block by block of 4 MiB, so that
any part of it can be made without the rest. With `--filled 0.1` only every tenth block is written, the others are holes
of a sparse file, which read as zeros. Decoder blocks as in GPT-3 (Brown et al. 2020, arXiv 2005.14165, table 2.1):
pre-layer-norm, learned positions, GELU, four times the width inside, and an output matrix that is the embedding turned.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hyle_substrates.draws import inverse_normal
from onnx import TensorProto, helper

__all__ = ["SIZES", "Shape", "build_model", "write_samples"]

BLOCK_BYTES = 4 << 20
OPSET = 20
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, width, heads, words and positions of a model."""

    layers: int
    width: int
    heads: int
    words: int = 50257
    positions: int = 2048

    @property
    def parameters(self) -> int:
        """Weights of matrices and tables; what norms and biases add is counted too."""
        block = 12 * self.width**2 + 13 * self.width
        return self.layers * block + (self.words + self.positions + 2) * self.width


SIZES = {
    "tiny": Shape(2, 64, 4, 500, 64),
    "0.05": Shape(6, 640, 10, 32000),
    "0.1": Shape(12, 768, 12),
    "0.4": Shape(24, 1024, 16),
    "1.2": Shape(24, 2048, 16),
    "6.7": Shape(32, 4096, 32),
}


@functools.cache
def _quantiles(dtype: str) -> np.ndarray[Any, Any]:
    """Standard normal quantiles of the 65,536 half-open bins of equal probability."""
    return inverse_normal((np.arange(65536) + 0.5) / 65536.0).astype(dtype)


def block_of(name: str, index: int, count: int, std: float, dtype: str) -> np.ndarray[Any, Any]:
    """Values of one block of a tensor: normal with standard deviation `std`, the same on every machine."""
    key = np.frombuffer(blake2b(f"{name}:{index}".encode(), digest_size=16).digest(), dtype="<u8").astype(np.uint64)
    bits = np.random.Philox(key=key).random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count]
    table = (_quantiles("float32") * np.float32(std)).astype(dtype)
    values: np.ndarray[Any, Any] = table[bits]
    return values


class _Data:
    """External data in one or several files."""

    def __init__(self, folder: Path, dtype: str, filled: float, shard_bytes: int) -> None:
        self.folder, self.dtype, self.every, self.shard_bytes = folder, dtype, round(1 / filled), shard_bytes
        self.number, self.offset = 0, 0
        self.file = (folder / self.name).open("wb")

    @property
    def name(self) -> str:
        return f"model-{self.number:05d}.data"

    def add(self, name: str, dims: Sequence[int], std: float) -> TensorProto:
        """Write a tensor and return its description."""
        size = int(np.prod(dims, dtype=np.int64)) * np.dtype(self.dtype).itemsize
        if self.offset and self.offset + size > self.shard_bytes:
            self._next()
        tensor = TensorProto(name=name, data_type=TYPES[self.dtype], dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.name), ("offset", self.offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        per = BLOCK_BYTES // np.dtype(self.dtype).itemsize
        for index, start in enumerate(range(0, int(np.prod(dims, dtype=np.int64)), per)):
            if index % self.every == 0:
                count = min(per, int(np.prod(dims, dtype=np.int64)) - start)
                self.file.seek(self.offset + start * np.dtype(self.dtype).itemsize)
                self.file.write(block_of(name, index, count, std, self.dtype).data)
        self.offset = -(-(self.offset + size) // 4096) * 4096
        self.file.truncate(self.offset)
        return tensor

    def _next(self) -> None:
        self.file.close()
        self.number, self.offset = self.number + 1, 0
        self.file = (self.folder / self.name).open("wb")


def build_model(
    folder: Path,
    shape: Shape,
    *,
    dtype: str = "float16",
    filled: float = 1.0,
    shard_bytes: int = 8 << 30,
    progress: Any = lambda text: None,
) -> Path:
    """Write `model.onnx` and its data; weights of `dtype`, arithmetic in float32.

    Args:
        folder: Where; made if need be.
        shape: The model's dimensions.
        dtype: `float16` or `float32`.
        filled: Share of the blocks that are written; the rest are holes.
        shard_bytes: A data file is not made larger than this if it holds more than one tensor.
        progress: Told what is being done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = _Data(folder, dtype, filled, shard_bytes)
    graph = _Graph(data)
    width = shape.width
    x = _embedding(graph, shape)
    for layer in range(shape.layers):
        progress(f"block {layer + 1} of {shape.layers}")
        x = _attention(graph, shape, f"h{layer}", x)
        x = _feed_forward(graph, shape, f"h{layer}", x)
    x = _norm(graph, "ln_f", x, width)
    turned = graph.op("Transpose", graph.float("wte"), perm=[1, 0])
    graph.op("MatMul", x, turned, name="lm_head", output="logits")
    data.file.close()
    free = ["batch", "tokens"]
    made = helper.make_graph(
        graph.nodes,
        "gpt",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, free)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*free, shape.words])],
        graph.tensors,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def write_samples(path: Path, shape: Shape, samples: int, tokens: int, seed: int = 0) -> None:
    """Random words, samples by tokens."""
    words = np.random.default_rng(seed).integers(0, shape.words, (samples, tokens))
    np.savez(path, tokens=words.astype(np.int64))


class _Graph:
    def __init__(self, data: _Data) -> None:
        self.data = data
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []

    def weight(self, name: str, *dims: int, std: float) -> str:
        """A large weight, as it is stored."""
        self.tensors.append(self.data.add(name, dims, std))
        return name

    def float(self, name: str) -> str:
        """A stored weight as float32."""
        return name if self.data.dtype == "float32" else self.op("Cast", name, to=TensorProto.FLOAT)

    def small(self, name: str, array: np.ndarray[Any, Any]) -> str:
        self.tensors.append(onnx.numpy_helper.from_array(array, name))
        return name

    def op(self, op: str, *inputs: str, outputs: int = 1, output: str = "", name: str = "", **attributes: Any) -> Any:
        stem = name or f"n{len(self.nodes)}"
        names = [output or f"{stem}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=stem, **attributes))
        return names[0] if outputs == 1 else names


def _embedding(graph: _Graph, shape: Shape) -> str:
    words = graph.weight("wte", shape.words, shape.width, std=0.02)
    places = graph.weight("wpe", shape.positions, shape.width, std=0.01)
    one, zero = graph.small("one", np.array(1)), graph.small("zero", np.array(0))
    length = graph.op("Gather", graph.op("Shape", "tokens"), one)
    order = graph.op("Range", zero, length, one)
    found = [graph.op("Gather", words, "tokens"), graph.op("Gather", places, order)]
    if graph.data.dtype != "float32":
        found = [graph.op("Cast", value, to=TensorProto.FLOAT) for value in found]
    square = graph.op("Concat", *[graph.op("Unsqueeze", length, graph.small("axis", np.array([0])))] * 2, axis=0)
    ones = graph.op("Expand", graph.small("minus", np.array(-1e9, np.float32)), square)
    graph.op("Trilu", ones, one, upper=1, output="mask")
    return str(graph.op("Add", *found))


def _norm(graph: _Graph, name: str, x: str, width: int) -> str:
    scale = graph.small(f"{name}.weight", np.ones(width, np.float32))
    return str(graph.op("LayerNormalization", x, scale, graph.small(f"{name}.bias", np.zeros(width, np.float32))))


def _linear(graph: _Graph, name: str, x: str, rows: int, cols: int, std: float) -> str:
    weight = graph.float(graph.weight(f"{name}.weight", rows, cols, std=std))
    bias = graph.small(f"{name}.bias", block_of(f"{name}.bias", 0, cols, 0.02, "float32"))
    return str(graph.op("Add", graph.op("MatMul", x, weight, name=name), bias))


def _attention(graph: _Graph, shape: Shape, name: str, x: str) -> str:
    width, heads = shape.width, shape.heads
    inner = _norm(graph, f"{name}.ln1", x, width)
    joined = _linear(graph, f"{name}.qkv", inner, width, 3 * width, 0.02)
    parts = graph.op("Split", joined, outputs=3, axis=-1, num_outputs=3)
    heads_shape = graph.small(f"{name}.split", np.array([0, 0, heads, width // heads]))
    q, k, v = (graph.op("Reshape", part, heads_shape) for part in parts)
    q, v = (graph.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    scores = graph.op("MatMul", q, graph.op("Transpose", k, perm=[0, 2, 3, 1]))
    scale = graph.small(f"{name}.scale", np.array((width / heads) ** -0.5, np.float32))
    weights = graph.op("Softmax", graph.op("Add", graph.op("Mul", scores, scale), "mask"), axis=-1)
    mixed = graph.op("Transpose", graph.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    flat = graph.op("Reshape", mixed, graph.small(f"{name}.join", np.array([0, 0, width])))
    depth = 0.02 / (2 * shape.layers) ** 0.5
    return str(graph.op("Add", x, _linear(graph, f"{name}.proj", flat, width, width, depth)))


def _feed_forward(graph: _Graph, shape: Shape, name: str, x: str) -> str:
    width = shape.width
    inner = _norm(graph, f"{name}.ln2", x, width)
    hidden = graph.op("Gelu", _linear(graph, f"{name}.fc", inner, width, 4 * width, 0.02))
    depth = 0.02 / (2 * shape.layers) ** 0.5
    return str(graph.op("Add", x, _linear(graph, f"{name}.out", hidden, 4 * width, width, depth)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a GPT-shaped model and its calibration samples.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="0.1", help="billions of parameters")
    parser.add_argument("--dtype", choices=sorted(TYPES), default="float16")
    parser.add_argument("--filled", type=float, default=1.0, help="share of blocks that are not holes")
    parser.add_argument("--shard-gb", type=float, default=8.0)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    args = parser.parse_args()
    shape = SIZES[args.size]
    shard = int(args.shard_gb * 1e9)
    path = build_model(args.folder, shape, dtype=args.dtype, filled=args.filled, shard_bytes=shard)
    write_samples(args.folder / "calib.npz", shape, args.samples, args.tokens)
    print(f"{path}: {shape.parameters / 1e9:.3f} billion parameters")


if __name__ == "__main__":
    main()
