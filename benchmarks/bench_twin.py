"""Speed of the twin with all its noise beside the plain float product, one thread, interleaved.

Matrices: beside NumPy's float32 product. Models: beside onnxruntime on the float model.
One copy a weight, so that the work is comparable with other simulators.

Run: python benchmarks/bench_twin.py [--rounds N]
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hyle_runtime  # noqa: F401
import numpy as np
import onnx
import onnxruntime as ort
from bench_accuracy import prepared
from hyle_compiler.evaluate import tensor_file
from hyle_runtime.body import Body
from hyle_substrates.profile import decode_profile
from hyle_substrates.twin import TwinDriver
from onnx import TensorProto, helper, numpy_helper

import hyle
from hyle.console import Console

ROOT = Path(__file__).resolve().parents[1]


def body_of(model: Path, calib: Path, scratch: Path, name: str) -> Body:
    bundle = scratch / f"{name}.hyle"
    hyle.compile(model, target="pcm-generic", calib=calib, output=bundle, copies=1, instances=1, name=name)
    with hyle.open(bundle) as opened:
        opened._bundle.extract(scratch / name)
        manifest = opened.manifest
    folder = scratch / name
    profile = decode_profile((folder / "profile.toml").read_bytes())
    tensors = tensor_file(folder / "programming.safetensors"), tensor_file(folder / "golden.safetensors")
    body = Body(folder, manifest, *tensors, TwinDriver(profile, 1), threads=1)
    body.program()
    return body


def seconds(work: Callable[[], object], least_s: float = 0.15) -> float:
    count, begin = 0, time.perf_counter()
    while True:
        work()
        count += 1
        taken = time.perf_counter() - begin
        if taken > least_s:
            return taken / count


def compare(
    name: str, plain: Callable[[], object], twin: Callable[[], object], batch: int, rounds: int
) -> list[object]:
    plain(), twin()
    pairs = [(seconds(plain), seconds(twin)) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    rates = [batch / statistics.median(column) for column in zip(*pairs, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return [name, f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{statistics.median(ratios):.2f}", spread]


def matrix(size: int, batch: int, scratch: Path, rounds: int) -> list[object]:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.1, (size, size)).astype(np.float32)
    x = rng.normal(size=(batch, size)).astype(np.float32)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    path = scratch / f"matrix{size}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    np.savez(scratch / "x.npz", x=x[:64])
    body = body_of(path, scratch / "x.npz", scratch, f"m{size}x{batch}")
    return compare(f"{size} x {size}, batch {batch}", lambda: x @ weight, lambda: body.run({"x": x}), batch, rounds)


def network(folder: Path, batch: int, scratch: Path, rounds: int) -> list[object]:
    body = body_of(folder / "model.onnx", prepared(folder, "calib", scratch), scratch, folder.name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options)
    with np.load(prepared(folder, "eval", scratch)) as file:
        feed: dict[str, Any] = {i.name: file[i.name][:batch] for i in session.get_inputs()}
    return compare(
        f"{folder.name}, batch {batch}", lambda: session.run(None, feed), lambda: body.run(feed), batch, rounds
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    models = [ROOT / "hyle" / "demo_data" / "mnist_lenet5"]
    if "HYLE_MODELS" in os.environ:
        models.append(Path(os.environ["HYLE_MODELS"]) / "mlperf_tiny_ic_resnet8")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows = [matrix(size, batch, scratch, args.rounds) for size, batch in ((512, 64), (512, 1024), (1024, 64))]
        rows += [network(path, 64, scratch, args.rounds) for path in models]
    columns = ["work", "plain samples/s", "twin samples/s", "twin / plain", "spread"]
    Console().table("pcm-generic twin with DAC, output noise and ADC, one thread", columns, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
