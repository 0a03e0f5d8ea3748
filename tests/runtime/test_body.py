"""A bundle on a device: whatever the tiles' size, whichever way it runs, and when the device is not well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hyle_bundle import open_bundle
from hyle_bundle.manifest import Block, Convolution, Layer, Manifest, Tile
from hyle_compiler.evaluate import tensor_file
from hyle_compiler.pipeline import Options, compile_model
from hyle_runtime.body import Body
from hyle_runtime.placement import block_matrix, operator_layout
from hyle_runtime.sessions import SessionError, start
from hyle_substrates.driver import Codes, Driver
from hyle_substrates.profile import Profile, decode_profile, find_profile
from hyle_substrates.twin import TwinDriver
from hypothesis import given, settings
from hypothesis import strategies as st

DATA = Path(__file__).resolve().parents[1] / "data"


def compiled(tmp_path: Path, name: str, profile: Profile, text: bytes, **options: Any) -> tuple[Path, Manifest]:
    folder = DATA / name
    out = tmp_path / "m.hyle"
    compile_model(
        folder / "model.onnx", folder / "calib.npz", profile, text, out, Options(**{"instances": 2} | options)
    )
    with open_bundle(out) as bundle:
        bundle.extract(tmp_path / "files")
        return tmp_path / "files", bundle.manifest


def body_on(folder: Path, manifest: Manifest, driver: Driver, **options: Any) -> Body:
    body = Body(
        folder,
        manifest,
        tensor_file(folder / "programming.safetensors"),
        tensor_file(folder / "golden.safetensors"),
        driver,
        **options,
    )
    body.program()
    return body


def images(name: str, count: int = 64) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(DATA / name / "eval.npz") as file:
        return {"input": file["input"][:count]}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("rows", "cols"), [(7, 5), (30, 64), (3, 100), (1000, 1)])
def test_any_size_of_tiles_gives_the_float_models_answers(rows: int, cols: int, fused: bool, tmp_path: Path) -> None:
    """3 rows are fewer than a kernel has positions (9), so that blocks are parts of a channel."""
    _, text = find_profile("ideal")
    small = text.replace(b"rows = 1048576", b"rows = %d" % rows).replace(b"cols = 1048576", b"cols = %d" % cols)
    profile = decode_profile(small)
    folder, manifest = compiled(tmp_path, "digits_cnn", profile, small)
    assert max(t.rows[1] - t.rows[0] for layer in manifest.layers for t in layer.tiles) <= rows
    assert max(t.cols[1] - t.cols[0] for layer in manifest.layers for t in layer.tiles) <= cols
    feed = images("digits_cnn")
    want = ort.InferenceSession(str(DATA / "digits_cnn" / "model.onnx")).run(None, feed)[0]
    got = body_on(folder, manifest, TwinDriver(profile), fused=fused).run(feed)["output"]
    assert np.abs(got - want).max() <= 1e-4 * (want.max() - want.min())


@pytest.mark.parametrize("compensation", ["none", "global", "column", "affine"])
def test_both_ways_of_running_see_the_same_device(compensation: str, tmp_path: Path) -> None:
    """The driver and the fused graph hold the same weights and draw their own noise.

    Without noise the two differ where a sum lies within float32 rounding of the middle between two codes; that moves
    few answers, by a few codes. The device's own error is far larger (its residual is printed by the assertion).
    """
    profile, text = find_profile("pcm-generic")
    folder, manifest = compiled(tmp_path, "digits_mlp", profile, text, compensation=compensation)
    feed = images("digits_mlp", 256)
    answers = []
    for fused in (True, False):
        driver = TwinDriver(profile, 5, noiseless=True)
        body = body_on(folder, manifest, driver, fused=fused, noiseless=True)
        driver.advance(86400.0)
        body.recalibrate()
        answers.append(body.run(feed)["output"])
    extent = answers[0].max() - answers[0].min()
    assert np.median(np.abs(answers[0] - answers[1])) <= 1e-5 * extent
    assert np.abs(answers[0] - answers[1]).max() <= 0.05 * extent


def test_recalibration_wins_back_what_drift_took(tmp_path: Path) -> None:
    profile, text = find_profile("pcm-generic")
    folder, manifest = compiled(tmp_path, "digits_mlp", profile, text, instances=6)
    driver = TwinDriver(profile, 3)
    body = body_on(folder, manifest, driver, fused=False)
    driver.advance(31536000.0)
    drifted = body.self_test().residual
    body.recalibrate()
    assert body.self_test().residual < 0.6 * drifted
    assert body.self_test().passed


@pytest.mark.parametrize("compensation", ["global", "column"])
def test_matter_that_is_old_when_it_is_written_is_corrected_as_well(compensation: str, tmp_path: Path) -> None:
    """An agent that starts late, or a twin that is told its age: nobody saw this matter when it was young."""
    profile, text = find_profile("pcm-generic")
    folder, manifest = compiled(tmp_path, "digits_mlp", profile, text, compensation=compensation, instances=6)
    for fused in (True, False):
        driver = TwinDriver(profile, 11)
        driver.advance(31536000.0)
        assert body_on(folder, manifest, driver, fused=fused).self_test().passed


class Broken(TwinDriver):
    """A device whose first column answers the highest code, whatever it is asked."""

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        answers = super().apply(tiles, codes).copy()
        answers[:, : answers.shape[1] // 2] = self.describe().profile.adc.levels
        return answers


def test_a_broken_device_fails_its_self_test(tmp_path: Path) -> None:
    profile, text = find_profile("pcm-generic")
    folder, manifest = compiled(tmp_path, "digits_mlp", profile, text)
    assert body_on(folder, manifest, TwinDriver(profile, 1), fused=False).self_test().passed
    assert not body_on(folder, manifest, Broken(profile, 1), fused=False).self_test().passed


def test_energy_follows_the_profiles_constants(tmp_path: Path) -> None:
    profile, text = find_profile("pcm-hermes")
    folder, manifest = compiled(tmp_path, "digits_mlp", profile, text)
    body = body_on(folder, manifest, TwinDriver(profile))
    tiles = sum(len(layer.tiles) for layer in manifest.layers)
    assert body.energy_j(10) == pytest.approx(10 * tiles * profile.cost.mvm_energy_j)


def test_a_graph_that_onnxruntime_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(SessionError, match=r"bad\.onnx"):
        start(tmp_path / "bad.onnx")


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 4),
    kernel=st.sampled_from([(1,), (3,), (2, 2), (3, 3), (1, 2, 2)]),
    cols=st.integers(1, 5),
    data=st.data(),
)
def test_operator_layout_and_matrix_are_inverse(
    channels: int, kernel: tuple[int, ...], cols: int, data: st.DataObject
) -> None:
    taps = int(np.prod(kernel))
    start_row = data.draw(st.integers(0, channels * taps - 1))
    stop_row = data.draw(st.integers(start_row + 1, channels * taps))
    layer = Layer(
        name="l",
        op="conv",
        input="x",
        output="y",
        rows=channels * taps,
        cols=cols,
        range_mode="static",
        full_scale="f",
        offset="o",
        noise="n",
        blocks=(Block((start_row, stop_row), "w", "g"),),
        tiles=(Tile(0, 0, (start_row, stop_row), (0, cols)),),
        macs=1,
        probes="p",
        probe_scales="s",
        responses="r",
        convolution=Convolution(kernel, (1,) * len(kernel), (0,) * (2 * len(kernel)), (1,) * len(kernel), channels),
    )
    matrix = np.arange((stop_row - start_row) * cols, dtype=np.int32).reshape(-1, cols)
    assert np.array_equal(block_matrix(layer, 0, operator_layout(layer, 0, matrix)), matrix)
