"""The cost model: against published figures of whole chips, by hand for one layer, and over several devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from compiler_models import model_folder
from hyle_agent.drivers.several import connect
from hyle_bundle import open_bundle
from hyle_bundle.manifest import Block, Layer, Tile
from hyle_compiler.cost import DIGITAL, cost_as_json, layer_cost, peak
from hyle_compiler.errors import PlacementError
from hyle_compiler.evaluate import evaluate_bundle, tensor_file
from hyle_compiler.pipeline import Options, compile_model
from hyle_runtime.body import Body
from hyle_substrates.driver import Driver
from hyle_substrates.profile import Array, Cost, Profile, decode_profile, find_profile, load_profile

from hyle.cli import main


def chip(
    rows: int, cols: int, count: int, latency_s: float, energy_j: float = 0.0, reloadable: bool = False
) -> Profile:
    return msgspec.structs.replace(
        load_profile("pcm-hermes"),
        array=Array(rows, cols, count, reloadable),
        cost=Cost(latency_s, energy_j),
    )


def test_hermes_in_one_phase_reads() -> None:
    """Le Gallo et al. 2023, Nat. Electron. 6, 680: 63.1 TOPS at 9.76 TOPS/W; constants are given to three digits."""
    found = peak(load_profile("pcm-hermes"))
    assert found.ops_per_s == pytest.approx(63.1e12, rel=5e-3)
    assert found.ops_per_j == pytest.approx(9.76e12, rel=5e-3)


def test_hermes_in_four_phase_reads() -> None:
    """The same paper: 16.1 TOPS at 2.48 TOPS/W. Four reads of 133 ns take 3 % more; an energy of four is 1.6 % off."""
    one = load_profile("pcm-hermes").cost
    found = peak(chip(256, 256, 64, 4 * one.mvm_latency_s, 4 * one.mvm_energy_j))
    assert found.ops_per_s == pytest.approx(16.1e12, rel=0.03)
    assert found.ops_per_j == pytest.approx(2.48e12, rel=0.03)


def test_isaac() -> None:
    """Aguirre et al. 2024, Nat. Commun. 15, 1974, table 3: ISAAC has 41.3 TOPS, of Shafiee et al. 2016, ISCA.

    168 tiles of 12 units of 8 crossbars of 128 x 128 cells of 2 bits; 16-bit weights take 8 columns, and 16-bit inputs
    16 cycles of 100 ns. The paper's own 478.95 GOPS/(s mm²) on 85.4 mm² is a product of rounded figures, to 1 %.
    """
    found = peak(chip(128, 128 // 8, 168 * 12 * 8, 16 * 100e-9))
    assert found.ops_per_s == pytest.approx(41.3e12, rel=0.05 / 41.3)
    assert found.ops_per_s == pytest.approx(478.95e9 * 85.4, rel=0.01)


def test_charge_domain_macro() -> None:
    """The profile's own source: 59.7 TOPS/W for a macro of 576 x 130."""
    assert peak(load_profile("sram-mc2ram")).ops_per_j == pytest.approx(59.7e12, rel=5e-3)


def test_a_profile_without_constants_promises_nothing() -> None:
    assert (peak(load_profile("pcm-generic")).ops_per_s, peak(load_profile("pcm-generic")).ops_per_j) == (None, None)


def layer(rows: int, cols: int, vectors: int, tiles: tuple[Tile, ...], polarity: Any = "signed") -> Layer:
    blocks = (Block((0, rows), "l", "g", 2, 1),)
    names = dict.fromkeys(("full_scale", "offset", "noise", "probes", "probe_scales", "responses"), "t")
    macs = rows * cols * vectors
    return Layer(
        name="a", op="matmul", input="x", output="y", rows=rows, cols=cols, range_mode="static", blocks=blocks,
        tiles=tiles, macs=macs, polarity=polarity, **names,
    )  # fmt: skip


def test_one_layer_by_hand() -> None:
    """100 vectors through 2 tiles of a 64 x 64 chip, 40 rows twice below each other: 100 reads of both."""
    tiles = (Tile(0, 0, (0, 20), (0, 60)), Tile(1, 0, (0, 20), (60, 100)))
    found = layer_cost(layer(20, 100, 100, tiles), chip(64, 64, 4, 1e-6, 2e-9))
    assert (found.reads, found.latency_s, found.energy_j) == (200, pytest.approx(1e-4), pytest.approx(4e-7))
    assert found.utilisation == pytest.approx(2 * 20 * 100 / (2 * 64 * 64))
    assert found.digital_energy_j == pytest.approx(20 * 100 * 100 * DIGITAL.mac_energy_j)
    twice = layer_cost(layer(20, 100, 100, tiles, "two-pass"), chip(64, 64, 4, 1e-6, 2e-9))
    assert twice.latency_s == pytest.approx(2e-4)
    assert layer_cost(layer(20, 100, 100, tiles), chip(64, 64, 1, 1e-6, 2e-9, True)).latency_s == pytest.approx(2e-4)


def small_chip(count: int) -> tuple[Profile, bytes]:
    _, text = find_profile("pcm-hermes")
    short = text.replace(b"rows = 256\ncols = 256\ncount = 64", b"rows = 64\ncols = 64\ncount = %d" % count)
    return decode_profile(short), short


def test_a_model_too_large_for_a_chip_is_spread_over_several(tmp_path: Path) -> None:
    folder = model_folder("digits_mlp")
    profile, text = small_chip(1)
    files = folder / "model.onnx", folder / "calib.npz"
    with pytest.raises(PlacementError, match="--devices"):
        compile_model(*files, profile, text, tmp_path / "m.hyle", Options(instances=2))
    done = compile_model(*files, profile, text, tmp_path / "m.hyle", Options(instances=2, devices=8))
    cost = done.report["cost"]
    assert (cost["devices"], cost["tiles_a_device"]) == (8, 1)
    assert {n for row in cost["layers"] for n in row["devices"]} == set(range(cost["tiles"]))
    assert cost == cost_as_json(done.manifest, chip(64, 64, 8, profile.cost.mvm_latency_s, profile.cost.mvm_energy_j))
    with open_bundle(tmp_path / "m.hyle") as bundle:
        bundle.extract(tmp_path / "files")
    found = evaluate_bundle(tmp_path / "files", done.manifest, folder / "eval.npz", ages_s=[25.0], seeds=[1])
    with np.load(folder / "eval.npz") as data:
        feed = {done.manifest.inputs[0].name: data[done.manifest.inputs[0].name]}
        labels = data["labels"]
    (tmp_path / "chip.toml").write_bytes(text)
    for options in ({"seed": "1"}, {"seed.1": "4", "seed.2": "5", "seed": "6"}):
        several = connect({"of": "twin", "devices": "8", "profile": str(tmp_path / "chip.toml"), **options})
        for fused in (True, False):
            answers = on(tmp_path / "files", several, fused).run(feed)[done.manifest.outputs[0].name]
            # Another instance's score; the standard error of 450 answers at 90 % is 1.4 points.
            assert np.mean(answers.argmax(-1) == labels) == pytest.approx(found["ages"][0]["mean"], abs=0.07)
        several.close()


def on(folder: Path, driver: Driver, fused: bool) -> Body:
    with open_bundle(folder.parent / "m.hyle") as bundle:
        manifest = bundle.manifest
    tensors = tensor_file(folder / "programming.safetensors"), tensor_file(folder / "golden.safetensors")
    body = Body(folder, manifest, *tensors, driver, fused=fused)
    body.program()
    return body


@pytest.mark.parametrize(("target", "devices"), [("pcm-generic", "2"), ("pcm-hermes", "0")])
def test_a_number_of_devices_that_makes_no_sense_is_refused(
    target: str, devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder("digits_mlp")
    files = [str(folder / "model.onnx"), "--calib", str(folder / "calib.npz"), "-o", str(tmp_path / "m.hyle")]
    assert main(["compile", *files, "--target", target, "--devices", devices]) == 2
    assert "device" in capsys.readouterr().err
    assert not (tmp_path / "m.hyle").exists()
