"""What the physics cannot serve is refused, with the methods that can; and auto says why it chose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hyle_compiler.adapt.checkpoint import Checkpoint
from hyle_compiler.adapt.method import AdaptError, Budget
from hyle_compiler.adapt.registry import checked, load_method
from hyle_substrates.profile import load_profile

from hyle.cli import main

DATA = Path(__file__).resolve().parents[1] / "data" / "digits_mlp"
PCM = load_profile("pcm-generic")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("equilibrium-propagation", "nudged"),
        ("coupled-learning", "nudged"),
        ("photonic-adjoint", "backwards"),
        ("hamiltonian-echo", "backwards in time"),
    ],
)
def test_a_method_that_the_physics_cannot_serve_is_refused_with_those_it_can(name: str, word: str) -> None:
    with pytest.raises(AdaptError, match=word) as caught:
        checked(name, PCM, labels=True)
    assert "spsa" in caught.value.remedy
    assert name not in caught.value.remedy


@pytest.mark.parametrize("name", ["equilibrium-propagation", "photonic-adjoint", "hamiltonian-echo"])
def test_a_method_of_another_physics_says_what_it_trains(given, name) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AdaptError, match="multiplies matrices"):
        load_method(name).run(given().task())


def test_methods_that_need_labels_are_refused_without(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra [train])")
    with pytest.raises(AdaptError, match="labels"):
        checked("forward-forward", PCM, labels=False)


def test_the_command_line_refuses_with_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([
        "compile", str(DATA / "model.onnx"), "--target", "pcm-generic", "--calib", str(DATA / "calib.npz"),
        "-o", str(tmp_path / "out.hyle"), "--adapt", "hamiltonian-echo",
    ])  # fmt: skip
    assert code == 2
    assert "backwards in time" in capsys.readouterr().err
    assert not (tmp_path / "out.hyle").exists()


@pytest.mark.parametrize(("of", "name"), [("weights", "spsa"), ("knobs", "in-silico"), ("knobs", "cma-es")])
def test_a_checkpoint_is_refused_by_a_method_that_learns_something_else(given, tmp_path, of, name) -> None:  # type: ignore[no-untyped-def]
    for package in ("torch", "cma"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra [train])")
    path = tmp_path / "best.npz"
    task = given("digits_mlp").task(checkpoint=path, budget=Budget(steps=1))
    layers = [calibrated.placed.layer for calibrated in task.layers]
    weights = {f"{layer.name}/matrix": layer.matrix for layer in layers}
    weights |= {f"{layer.name}/bias": layer.bias for layer in layers}
    columns = sum(layer.matrix.shape[1] for layer in layers)
    Checkpoint(task).write(weights if of == "weights" else {"knobs": np.zeros(2 * columns)})
    kept = path.read_bytes()
    with pytest.raises(AdaptError, match="learns something else"):
        load_method(name).run(task)
    assert path.read_bytes() == kept
    load_method("in-silico" if of == "weights" else "spsa").run(task)


def test_variations_of_what_are_no_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([
        "compile", str(DATA / "model.onnx"), "--target", "pcm-generic", "--calib", str(DATA / "calib.npz"),
        "-o", str(tmp_path / "out.hyle"), "--adapt", "none", "--augment", "shift",
    ])  # fmt: skip
    assert code == 2
    assert "Leave out --augment" in capsys.readouterr().err
