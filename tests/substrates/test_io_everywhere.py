"""The converters' functions are the same in NumPy, in torch and, traced, in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ndonnx as ndx
import numpy as np
import onnxruntime as ort
import pytest
from hyle_substrates import io

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "encode": lambda x: io.encode(x, 0.7, 31),
    "encode, continuous": lambda x: io.encode(x, 0.7, 0),
    "readout": lambda x: io.readout(x * 40.0, None, 0.0, 25),
    "readout with noise": lambda x: io.readout(x * 40.0, x, 0.5, 25),
    "decode": lambda x: io.decode(x, 0.3),
    "positive side": lambda x: io.sides(x, "two-pass")[0],
    "negative side": lambda x: io.sides(x, "two-pass")[1],
    "noise": lambda x: io.noise_std(x * x, x * x, 0.1, 0.2, 0.3),
}
X = np.random.default_rng(0).uniform(-1, 1, 500).astype(np.float32)


def one_code(function: str) -> float:
    """A tie between two codes may round either way after another order of float32 operations."""
    return 1.0 if function.startswith(("encode", "readout")) else 1e-6


@pytest.mark.parametrize("name", FUNCTIONS)
def test_traced_to_onnx(name: str) -> None:
    argument = ndx.argument(shape=("N",), dtype=ndx.float32)
    model = ndx.build({"x": argument}, {"y": FUNCTIONS[name](argument)})
    found = ort.InferenceSession(model.SerializeToString()).run(None, {"x": X})[0]
    off = np.abs(found - FUNCTIONS[name](X))
    assert off.max() <= one_code(name)
    assert np.mean(off > 1e-6) < 0.01


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_torch_with_gradients_straight_through(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the extra `train`")
    x = torch.tensor(X, requires_grad=True)
    found = FUNCTIONS[name](x)
    found.sum().backward()
    off = np.abs(found.detach().numpy() - FUNCTIONS[name](X))
    assert off.max() <= one_code(name)
    assert np.mean(off > 1e-5) < 0.01
    assert bool(torch.isfinite(x.grad).all())
    assert bool((x.grad != 0.0).any())
