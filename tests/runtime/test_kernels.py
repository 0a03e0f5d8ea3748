"""The compiled converters against the same arithmetic in NumPy, and against input that does not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hyle_runtime import kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

pytestmark = pytest.mark.skipif(not kernels.LIBRARY.is_file(), reason="hyle was installed without a C compiler")

Array = np.ndarray[Any, Any]
ROLES = ("total", "deviates", "places", "scale", "full_scale", "offset")


def run(kind: str, inputs: dict[str, Array], roles: tuple[str, ...], outputs: int, **attributes: int) -> list[Array]:
    """One operator, whatever is given of its inputs."""
    names = [role if role in inputs else "" for role in roles]
    results = [f"out{number}" for number in range(outputs)]
    node = helper.make_node(kind, names, results, domain=kernels.DOMAIN, **attributes)
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    values = [helper.make_tensor_value_info(n, kinds[a.dtype], [None] * a.ndim) for n, a in inputs.items()]
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in results]
    graph = helper.make_graph([node], "g", values, given)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(kernels.DOMAIN, 1)]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    assert kernels.register(options)
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return list(ort.InferenceSession(model.SerializeToString(), options).run(None, inputs))


def read(
    inputs: dict[str, Array],
    *,
    levels: int = 127,
    axis: int = -1,
    parts: int = 1,
    rectify: int = 0,
    pool: tuple[int, int] = (0, 0),
    name: str = "Read0",
) -> Array:
    later = {"rectify": rectify, "pool_height": pool[0], "pool_width": pool[1]}
    return run(name, inputs, ROLES, 1, levels=levels, axis=axis, parts=parts, **later)[0]


def followed(values: Array, rectify: int, pool: tuple[int, int]) -> Array:
    """What is asked of a read's values beside the values."""
    if rectify:
        values = np.maximum(values, 0)
    if pool == (0, 0):
        return values
    maps = values.reshape(*values.shape[:2], -1, values.shape[-1])
    high, wide = maps.shape[2] // pool[0], maps.shape[3] // pool[1]
    cut = maps[:, :, : high * pool[0], : wide * pool[1]].reshape(*maps.shape[:2], high, pool[0], wide, pool[1])
    most = cut.max(axis=(3, 5), initial=-np.inf)
    return most.reshape(*values.shape[:2], *([high] if values.ndim == 4 else []), wide)


def expected(inputs: dict[str, Array], levels: int, axis: int, parts: int) -> Array:
    """What `Read` says, one operation after the other in float32."""
    total = inputs["total"]
    noisy = total
    if "deviates" in inputs:
        deviates = inputs["deviates"]
        if "places" in inputs:
            runs = deviates[inputs["places"]].reshape(len(inputs["places"]) if inputs["places"].ndim == 2 else 1, -1)
            deviates = runs[:, : total.size // len(runs)]
        noisy = total + deviates.reshape(total.shape)
    codes = np.clip(np.round(noisy), -levels, levels).astype(np.float32) if levels else noisy
    place = 1 if axis == 1 else total.ndim - 1
    cols = total.shape[place] // parts
    shape = [-1 if number == place else 1 for number in range(total.ndim)]
    pieces = np.split(codes, parts, axis=place)
    scale = inputs["scale"]
    if len(scale) == cols:
        value = pieces[0]
        for piece in pieces[1:]:
            value = value + piece
        value = value * scale.reshape(shape)
    else:
        scaled = [p * s.reshape(shape) for p, s in zip(pieces, np.split(scale, parts), strict=True)]
        value = scaled[0]
        for piece in scaled[1:]:
            value = value + piece
    if "full_scale" in inputs:
        value = value * inputs["full_scale"]
    return value + inputs["offset"].reshape(shape) if "offset" in inputs else value


Later = tuple[int, tuple[int, int]]


@st.composite
def readings(draw: st.DrawFn) -> tuple[dict[str, Array], int, int, int, Later]:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    axis, parts, cols = draw(st.sampled_from([1, -1])), draw(st.integers(1, 11)), draw(st.integers(1, 70))
    samples = draw(st.integers(1, 4))
    inner = draw(st.sampled_from([(), (1,), (7,), (300,), (5, 9), (12, 12), (9, 400), (3, 4, 5)]))
    shape = (samples, parts * cols, *inner) if axis == 1 else (samples, *inner[:2], parts * cols)
    levels = draw(st.sampled_from([0, 1, 31, 127, 4095, kernels.MOST_LEVELS]))
    spread = max(levels, 1) * draw(st.sampled_from([0.3, 2.0]))
    total = random.normal(0, spread, shape).astype(np.float32)
    if draw(st.booleans()):  # halves, which go to the even side
        total = np.round(total * 2) / np.float32(2)
    inputs: dict[str, Array] = {"total": total}
    noise = draw(st.sampled_from(["none", "given", "for each sample", "for all"]))
    width = draw(st.sampled_from([1, 16, 128]))
    if noise == "given":
        inputs["deviates"] = random.normal(size=(samples, total.size // samples)).astype(np.float32)
    elif noise != "none":
        inputs["deviates"] = random.normal(size=(40, width)).astype(np.float32)
        volume = total.size // samples if noise == "for each sample" else total.size
        runs = -(-volume // width) + draw(st.integers(0, 1))
        inputs["places"] = random.integers(0, 40, (samples, runs) if noise == "for each sample" else runs)
    each = draw(st.booleans())
    inputs["scale"] = random.normal(size=parts * cols if each else cols).astype(np.float32)
    if draw(st.booleans()):
        size = (samples, *[1] * (len(shape) - 1)) if axis == 1 else (*shape[:-1], 1)
        inputs["full_scale"] = random.random(size if draw(st.booleans()) else (1,) * len(shape)).astype(np.float32)
    if draw(st.booleans()):
        inputs["offset"] = random.normal(size=cols).astype(np.float32)
    pool = (0, 0)
    if axis == 1 and len(inner) in {1, 2} and draw(st.booleans()):
        pool = (1 if len(inner) == 1 else draw(st.integers(1, 6)), draw(st.integers(1, 9)))
    return inputs, levels, axis, parts, (draw(st.integers(0, 1)), pool)


@settings(max_examples=300, deadline=None)
@given(readings())
def test_a_read_is_what_numpy_says(case: tuple[dict[str, Array], int, int, int, Later]) -> None:
    inputs, levels, axis, parts, (rectify, pool) = case
    wanted = followed(expected(inputs, levels, axis, parts), rectify, pool)
    got = read(inputs, levels=levels, axis=axis, parts=parts, rectify=rectify, pool=pool)
    assert got.shape == wanted.shape
    assert np.array_equal(got, wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(3, 5), (2, 3, 4), (2, 1, 28, 28), (1, 1)]), st.sampled_from([7, 127]))
def test_a_drive_is_what_numpy_says(seed: int, shape: tuple[int, ...], levels: int) -> None:
    x = np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)
    factor = np.array(seed % 100 + 0.5, dtype=np.float32)
    (codes,) = run("Drive0", {"x": x, "factor": factor}, ("x", "factor"), 1, levels=levels, axis=-1)
    assert np.array_equal(codes, np.round(np.clip(x * factor, -levels, levels)))
    for axis in (1, -1):
        codes, full = run("Drive0", {"x": x}, ("x", "factor"), 2, levels=levels, axis=axis)
        most = np.abs(x).max(axis=tuple(range(1, x.ndim)) if axis == 1 else -1, keepdims=True)
        assert np.array_equal(full, most)
        assert np.array_equal(codes, np.round(x * (np.float32(levels) / (most + np.float32(1e-30)))))


def test_a_sample_of_zeros_and_no_samples_at_all() -> None:
    zeros = np.zeros((2, 6), dtype=np.float32)
    codes, full = run("Drive0", {"x": zeros}, ("x", "factor"), 2, levels=127, axis=-1)
    assert not codes.any()
    assert not full.any()
    none = {"total": np.zeros((0, 6), dtype=np.float32), "scale": np.ones(3, dtype=np.float32)}
    assert read(none, parts=2).shape == (0, 3)


GOOD = {
    "total": np.ones((2, 6), dtype=np.float32),
    "deviates": np.ones((4, 3), dtype=np.float32),
    "places": np.zeros((2, 2), dtype=np.int64),
    "scale": np.ones(3, dtype=np.float32),
    "full_scale": np.ones((2, 1), dtype=np.float32),
    "offset": np.ones(3, dtype=np.float32),
}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"total": np.ones((2, 7), dtype=np.float32)}, "whole parts"),
        ({"scale": np.ones(4, dtype=np.float32)}, "a scale for each column"),
        ({"offset": np.ones(2, dtype=np.float32)}, "an offset for each column"),
        ({"full_scale": np.ones((3, 1), dtype=np.float32)}, "a full scale for each sample"),
        ({"places": np.full((2, 2), 4)}, "outside the table"),
        ({"places": np.full((2, 2), -1)}, "outside the table"),
        ({"places": np.zeros((2, 1), dtype=np.int64)}, "too few places"),
        ({"places": np.zeros((0, 2), dtype=np.int64)}, "fit no sample"),
        ({"places": np.zeros((3, 2), dtype=np.int64)}, "too few places|fit no sample"),
        ({"deviates": np.ones(6, dtype=np.float32)}, "no matrix"),
        ({"deviates": np.ones((4, 0), dtype=np.float32)}, "no matrix"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Array], sentence: str) -> None:
    assert read(GOOD, parts=2).shape == (2, 3)
    with pytest.raises(Exception, match=f"hyle.converters: .*({sentence})"):
        read({**GOOD, **changed}, parts=2)


def test_deviates_without_places_are_one_for_each_value() -> None:
    alone = {"total": GOOD["total"], "scale": GOOD["scale"]}
    assert read({**alone, "deviates": np.ones(12, dtype=np.float32)}, parts=2).tolist() == [[4.0] * 3] * 2
    with pytest.raises(Exception, match="not one deviate a value"):
        read({**alone, "deviates": np.ones(11, dtype=np.float32)}, parts=2)


@pytest.mark.parametrize(
    "attributes",
    [
        {"levels": -1},
        {"levels": kernels.MOST_LEVELS + 1},
        {"axis": 0},
        {"axis": 2},
        {"parts": 0},
        {"pool": (-1, 2)},
        {"pool": (2, 0)},
        {"pool": (0, 2)},
        {"pool": (2, kernels.MOST_POOLED + 1)},
    ],
)
def test_an_attribute_out_of_range_is_refused(attributes: dict[str, int]) -> None:
    with pytest.raises(Exception, match="an attribute is out of range"):
        read(GOOD, **{"parts": 2, **attributes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "axis", "pool"),
    [((2, 6), -1, (1, 2)), ((2, 6), 1, (1, 2)), ((2, 6, 8), 1, (2, 2)), ((1, 6, 2, 2, 2), 1, (1, 1))],
)
def test_only_maps_are_pooled(shape: tuple[int, ...], axis: int, pool: tuple[int, int]) -> None:
    inputs = {"total": np.ones(shape, dtype=np.float32), "scale": np.ones(6, dtype=np.float32)}
    with pytest.raises(Exception, match="Read pools maps of one or two axes"):
        read(inputs, axis=axis, pool=pool)


def test_many_samples_are_pooled_on_several_threads() -> None:
    random = np.random.default_rng(2)
    inputs = {
        "total": random.normal(0, 50, (70, 8, 20, 14)).astype(np.float32),
        "scale": random.normal(size=8).astype(np.float32),
        "offset": random.normal(size=4).astype(np.float32),
    }
    wanted = followed(expected(inputs, 127, 1, 2), 1, (2, 2))
    assert np.array_equal(read(inputs, axis=1, parts=2, rectify=1, pool=(2, 2)), wanted)


def test_there_are_as_many_names_as_the_compiler_may_give() -> None:
    x = {"x": np.ones((2, 6), dtype=np.float32)}
    reads, drives = kernels.VARIANTS["Read"], kernels.VARIANTS["Drive"]
    assert read(GOOD, parts=2, name=f"Read{reads - 1}").shape == (2, 3)
    assert len(run(f"Drive{drives - 1}", x, ("x", "factor"), 2, levels=7, axis=-1)) == 2
    with pytest.raises(Exception, match="is not a registered function/op"):
        read(GOOD, parts=2, name=f"Read{reads}")
    with pytest.raises(Exception, match="is not a registered function/op"):
        run(f"Drive{drives}", x, ("x", "factor"), 2, levels=7, axis=-1)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_source_has_no_warnings(tmp_path: Path) -> None:
    source = Path(kernels.__file__).with_name("converters.c")
    strict = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", "-shared"]
    subprocess.run(["cc", *strict, "-o", str(tmp_path / "library.so"), str(source)], check=True, timeout=120)


UNDER_WATCH = """
import sys, pytest
from pathlib import Path
from hyle_runtime import kernels
kernels.LIBRARY = Path(sys.argv[1])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-cov", "-m", "not long", sys.argv[2]]))
"""


@pytest.mark.long
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_no_access_is_out_of_bounds(tmp_path: Path) -> None:
    """This file again, on a library that ends the process at the first wrong address or undefined operation."""
    source, library = Path(kernels.__file__).with_name("converters.c"), tmp_path / "converters.so"
    watch = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-ffp-contract=off"]
    shared = ["-std=c11", "-fPIC", "-shared", "-fvisibility=hidden", "-o", str(library), str(source)]
    subprocess.run(["gcc", *watch, *shared], check=True, timeout=120)
    found = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment |= {"LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", UNDER_WATCH, str(library), __file__]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
