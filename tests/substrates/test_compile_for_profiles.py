"""A trained model compiles for every matrix profile, and the graph and the driver give the same answers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hyle_bundle import open_bundle
from hyle_bundle.manifest import Manifest
from hyle_compiler.evaluate import evaluate_bundle, tensor_file
from hyle_compiler.pipeline import Options, compile_model
from hyle_runtime.body import Body
from hyle_substrates.profile import Profile, decode_profile, find_profile, profile_names
from hyle_substrates.twin import TwinDriver

DATA = Path(__file__).resolve().parents[1] / "data"
LARGEST_LOSS = 0.03


def compiled(
    tmp_path: Path, model: str, profile: Profile, text: bytes, copies: int | None = 1
) -> tuple[Path, Manifest]:
    out, folder = tmp_path / "m.hyle", DATA / model
    options = Options(instances=1, copies=copies)
    compile_model(folder / "model.onnx", folder / "calib.npz", profile, text, out, options)
    with open_bundle(out) as bundle:
        bundle.extract(tmp_path / "files")
        return tmp_path / "files", bundle.manifest


@pytest.mark.parametrize("target", profile_names())
def test_digits_keep_their_accuracy_on_every_profile(target: str, tmp_path: Path) -> None:
    """Loss of at most 3 points after an hour, of 450 images at 98 %: their standard error is 0.7 points."""
    profile, text = find_profile(target)
    folder, manifest = compiled(tmp_path, "digits_mlp", profile, text, copies=None)
    found = evaluate_bundle(
        folder,
        manifest,
        DATA / "digits_mlp" / "eval.npz",
        ages_s=[3600.0],
        seeds=[1, 2],
        float_model=DATA / "digits_mlp" / "model.onnx",
    )
    assert found["ages"][0]["mean"] > found["float"] - LARGEST_LOSS


def body_of(folder: Path, manifest: Manifest, profile: Profile, fused: bool) -> Body:
    programming, golden = tensor_file(folder / "programming.safetensors"), tensor_file(folder / "golden.safetensors")
    body = Body(folder, manifest, programming, golden, TwinDriver(profile, 3), fused=fused)
    body.program()
    return body


KINDS = {
    "two passes": ("slm-wang2022", b"photons = 12.4", b"photons = 0.0"),
    "an offset": ("rram-cmo", b"output_std = 0.04", b"output_std = 0.0"),
    "wires": ("rram-neurram-wires", b"output_std = 0.04\nweight_std = 0.01", b"output_std = 0.0"),
}


@pytest.mark.parametrize(
    ("kind", "model"),
    [(k, m) for k in KINDS for m in ("digits_mlp", "digits_cnn") if (k, m) != ("wires", "digits_cnn")],
)
def test_graph_and_driver_agree_without_noise(kind: str, model: str, tmp_path: Path) -> None:
    """But for images one of whose sums lies on the edge between two ADC codes and falls to the other side."""
    target, old, new = KINDS[kind]
    text = find_profile(target)[1]
    assert old in text
    text = text.replace(old, new)
    profile = decode_profile(text)
    folder, manifest = compiled(tmp_path, model, profile, text)
    with np.load(DATA / model / "eval.npz") as file:
        feed = {"input": file["input"][:32] - (0.3 if kind == "two passes" else 0.0)}
    found = []
    for fused in (True, False):
        programming, golden = (
            tensor_file(folder / "programming.safetensors"),
            tensor_file(folder / "golden.safetensors"),
        )
        body = Body(folder, manifest, programming, golden, TwinDriver(profile, 3), fused=fused)
        body.program()
        found.append(body.run(feed)[manifest.outputs[0].name])
    off = np.linalg.norm(found[0] - found[1], axis=1) / np.linalg.norm(found[1], axis=1)
    assert np.mean(off < 1e-4) > 0.7
    assert off.max() < 0.2


@pytest.mark.parametrize("target", ["slm-wang2022", "rram-neurram"])
def test_noise_that_follows_the_signal_is_the_same_in_graph_and_driver(target: str, tmp_path: Path) -> None:
    """Standard deviation of 200 repeated answers: its relative error is 1/√400 = 5 % an output, 2 % over ten."""
    profile, text = find_profile(target)
    folder, manifest = compiled(tmp_path, "digits_mlp", profile, text)
    with np.load(DATA / "digits_mlp" / "eval.npz") as file:
        feed = {"input": np.repeat(file["input"][:1], 400, axis=0)}
    spread = []
    for fused in (True, False):
        programming, golden = (
            tensor_file(folder / "programming.safetensors"),
            tensor_file(folder / "golden.safetensors"),
        )
        body = Body(folder, manifest, programming, golden, TwinDriver(profile, 3), fused=fused)
        body.program()
        spread.append(float(np.sqrt(np.mean(body.run(feed)[manifest.outputs[0].name].var(axis=0)))))
    assert spread[0] == pytest.approx(spread[1], rel=0.1)


def test_layers_without_negative_inputs_are_driven_once(tmp_path: Path) -> None:
    profile, text = find_profile("slm-wang2022")
    _, manifest = compiled(tmp_path, "digits_mlp", profile, text)
    assert {layer.polarity for layer in manifest.layers} <= {"positive", "two-pass"}
    assert all(layer.reference == 0.0 for layer in manifest.layers)


def test_a_model_larger_than_a_reloadable_chip_takes_turns_on_it(tmp_path: Path) -> None:
    profile, text = find_profile("sram-mc2ram")
    _, manifest = compiled(tmp_path, "digits_mlp", profile, text)
    assert sum(len(layer.tiles) for layer in manifest.layers) > profile.array.count
    fixed = msgspec.structs.replace(profile, array=msgspec.structs.replace(profile.array, reloadable=False))
    assert fixed.array.tiles == profile.array.count
