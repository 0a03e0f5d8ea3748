"""What the physics cannot serve is refused, with the methods that can; and auto says why it chose."""

from __future__ import annotations

from pathlib import Path

import pytest
from hyle_compiler.adapt.method import AdaptError
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
