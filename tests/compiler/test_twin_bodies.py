"""However a twin's graph reads its blocks and copies, it equals the NumPy physics that the driver does."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hyle_bundle import open_bundle
from hyle_bundle.manifest import Manifest
from hyle_compiler.evaluate import exact_body, tensor_file
from hyle_compiler.pipeline import Options, compile_model
from hyle_runtime.body import Body
from hyle_substrates.profile import Profile, decode_profile, find_profile
from hyle_substrates.twin import TwinDriver
from onnx import TensorProto, helper, numpy_helper


def device(rows: int, levels: int, *, negative: bool, ranges: str) -> tuple[Profile, bytes]:
    """`pcm-hermes` with fewer rows, another ADC and other inputs."""
    _, text = find_profile("pcm-hermes")
    dac, adc = b'[dac]\nlevels = 127\nrange = "either"', b"[adc]\nlevels = 127"
    assert dac in text
    assert adc in text
    text = text.replace(
        dac, f'[dac]\nlevels = 127\nrange = "{ranges}"\nnonnegative = {str(not negative).lower()}'.encode()
    )
    # Of a range so small many reads are at its end, as they are not in a chip.
    text = text.replace(adc, b"[adc]\nlevels = %d" % levels).replace(b"full_scale = 10.0", b"full_scale = 1.0")
    text = text.replace(b"rows = 256", b"rows = %d" % rows)
    return decode_profile(text), text


def compiled(tmp_path: Path, axes: int, cols: int, copies: int, profile: Profile, text: bytes) -> tuple[Path, Manifest]:
    """A convolution with `axes` axes, or for none a matrix product; four channels or twenty rows."""
    random, kernel = np.random.default_rng(axes), 2 if axes == 3 else 3
    sizes = (4, *[6] * axes) if axes else (20,)
    shape = (cols, 4, *[kernel] * axes) if axes else (20, cols)
    node = helper.make_node("Conv" if axes else "MatMul", ["x", "w"], ["y"], name="layer")
    outputs = ["N", cols, *[7 - kernel] * axes]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", *sizes]), ("y", outputs))
    ]
    weight = numpy_helper.from_array(random.normal(0, 0.2, shape).astype(np.float32), "w")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=random.normal(size=(24, *sizes)).astype(np.float32))
    options = Options(name="m", instances=1, copies=copies)
    compile_model(tmp_path / "m.onnx", tmp_path / "x.npz", profile, text, tmp_path / "m.hyle", options)
    with open_bundle(tmp_path / "m.hyle") as bundle:
        bundle.extract(tmp_path / "files")
        return tmp_path / "files", bundle.manifest


def operators(folder: Path) -> Counter[str]:
    twin = onnx.load(folder / "twin.onnx", load_external_data=False)
    return Counter(node.op_type for body in twin.functions for node in body.node)


# The axes of a convolution (0: a matrix product), columns, devices a weight, rows of a tile (so few that copies lie
# side by side), levels of the ADC, inputs of both signs, range of the DAC; then what the graph must do: count in
# bytes, or read several blocks at once.
CASES: dict[str, tuple[int, int, int, int, int, bool, str, str]] = {
    "one axis in bytes": (1, 5, 4, 12, 127, True, "static", "counts"),
    "two axes in bytes": (2, 5, 4, 36, 127, True, "dynamic", "counts"),
    "three axes in bytes": (3, 5, 4, 32, 100, True, "static", "counts"),
    "several blocks in bytes": (2, 5, 4, 20, 127, True, "dynamic", "counts"),
    "two passes in bytes": (2, 5, 4, 36, 31, False, "static", "counts"),
    "too many levels for bytes": (2, 5, 4, 36, 128, True, "static", ""),
    "too many columns for bytes": (2, 17, 4, 36, 127, True, "static", ""),
    "one copy": (2, 5, 1, 256, 127, True, "static", ""),
    "several blocks at once": (0, 5, 4, 8, 127, True, "static", "joins"),
    "several blocks at once, a range for each sample": (0, 5, 4, 8, 255, True, "dynamic", "joins"),
    "several blocks at once, in two passes": (0, 5, 1, 8, 127, False, "static", "joins"),
    "one block": (0, 5, 4, 20, 127, True, "dynamic", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_graph_equals_the_physics(case: str, tmp_path: Path) -> None:
    axes, cols, copies, rows, levels, negative, ranges, how = CASES[case]
    profile, text = device(rows, levels, negative=negative, ranges=ranges)
    folder, manifest = compiled(tmp_path, axes, cols, copies, profile, text)
    (layer,) = manifest.layers
    found = operators(folder)
    passes = 1 if negative else 2
    at_once = len(layer.blocks) > 1 and found["Round"] == 1 + passes  # of the DAC, and of one read in each pass
    assert (found["ConvInteger"] > 0, at_once) == (how == "counts", how == "joins")
    assert (layer.blocks[0].col_copies > 1) == (copies > 1)
    assert layer.polarity == ("signed" if negative else "two-pass")
    x = np.random.default_rng(9).normal(size=(40, *([4] + [6] * axes if axes else [20]))).astype(np.float32)
    fused, stepped = (exact_body(folder, manifest, profile, fused=way).run({"x": x})["y"] for way in (True, False))
    extent = float(np.abs(stepped).max())
    programming = tensor_file(folder / "programming.safetensors")
    static = float(programming.array(layer.full_scale))
    full_scale = np.abs(x).reshape(len(x), -1).max(axis=1) if ranges == "dynamic" else np.full(len(x), static)
    # Only where a float32 sum lies within its rounding of the middle between two codes may the two differ. Two sums of
    # n products differ by at most 2 n eps of their magnitudes (Higham 2002, 4.2); as sums lie everywhere between two
    # codes, twice that is the share of reads that may differ.
    products = min(rows, layer.rows)
    weights = np.mean([np.abs(programming.array(block.levels)).mean() for block in layer.blocks]) / 127
    inputs = np.mean(np.abs(x).reshape(len(x), -1).mean(axis=1) / full_scale)
    magnitude = products * weights * inputs * levels / profile.adc.full_scale
    share = 2 * (2 * products * np.finfo(np.float32).eps * magnitude) * passes * copies * len(layer.blocks)
    apart = np.abs(fused - stepped) > 1e-5 * extent
    assert apart.mean() <= share < 0.1
    # Every copy of every block may be off by one code in every pass; a code is worth its gain times the DAC's range.
    gains = sum(programming.array(block.gain).max() for block in layer.blocks)
    assert np.abs(fused - stepped).max() <= passes * gains * full_scale.max() * (1 + 1e-5)


def test_places_that_are_drawn_together_give_every_layer_noise_of_its_own(tmp_path: Path) -> None:
    """Three layers of 10, 200 and 10 columns, whose places in the table are one draw: no two values go together."""
    random = np.random.default_rng(3)
    sizes = {"a": 10, "b": 200, "c": 10}
    weights = {name: random.normal(0, 0.2, (48, size)).astype(np.float32) for name, size in sizes.items()}
    nodes = [helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in sizes]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, ["N", 48])],
        [info(name, TensorProto.FLOAT, ["N", size]) for name, size in sizes.items()],
        [numpy_helper.from_array(weight, f"w{name}") for name, weight in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    x = random.normal(size=(16, 48)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    profile, text = find_profile("pcm-hermes")
    options = Options(name="m", instances=1, copies=1)
    compile_model(tmp_path / "m.onnx", tmp_path / "x.npz", profile, text, tmp_path / "m.hyle", options)
    with open_bundle(tmp_path / "m.hyle") as bundle:
        bundle.extract(tmp_path / "files")
        manifest = bundle.manifest
    twin = onnx.load(tmp_path / "files" / "twin.onnx", load_external_data=False)
    assert sum(node.op_type == "RandomUniformLike" for node in twin.graph.node) == 1
    assert not operators(tmp_path / "files")["RandomUniformLike"]
    read = many(tmp_path / "files", manifest, profile, {"x": np.repeat(x[:1], 4096, axis=0)})
    values = np.concatenate([read[name] for name in sizes], axis=1).astype(np.float64)
    centred = (values - values.mean(axis=0)) / values.std(axis=0)
    products = centred.T @ centred / len(centred)
    # Correlations of 4,096 independent reads have the standard deviation 1 / sqrt(4096), those of two positions of the
    # table's runs likewise; six of both together are exceeded by one of 24,090 with 5e-5.
    assert np.abs(products - np.eye(len(products))).max() < 6.0 * math.sqrt(2 / 4096)


def many(folder: Path, manifest: Manifest, profile: Profile, feed: dict[str, Any]) -> dict[str, Any]:
    files = [tensor_file(folder / f"{name}.safetensors") for name in ("programming", "golden")]
    body = Body(folder, manifest, files[0], files[1], TwinDriver(profile, 5))
    body.program()
    return body.run(feed)
