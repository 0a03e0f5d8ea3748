"""Wires with resistance, against two independent solvers of Kirchhoff's equations."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hyle_substrates.profile import Wires, load_profile
from hyle_substrates.twin import TwinDriver
from hyle_substrates.wires import effective_conductance, loaded

GRIDS = [(1, 1, 1.0, 1.0), (2, 3, 5.0, 1.0), (16, 12, 2.0, 3.0), (48, 32, 1.0, 1.0)]


def grid(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows * 100 + cols)
    return random.uniform(1e-6, 1e-4, (rows, cols)), random.uniform(0.01, 0.2, rows)


@pytest.mark.parametrize(("rows", "cols", "word", "bit"), GRIDS)
def test_column_currents_are_badcrossbars(rows: int, cols: int, word: float, bit: float) -> None:
    badcrossbar = pytest.importorskip("badcrossbar", reason="badcrossbar is not installed", exc_type=ImportError)
    conductance, volts = grid(rows, cols)
    solved = badcrossbar.compute(volts[:, None], 1.0 / conductance, r_i_word_line=word, r_i_bit_line=bit)
    found = volts @ effective_conductance(conductance, word, bit)
    assert np.abs(found / solved.currents.output[0] - 1.0).max() < 1e-3


def netlist(conductance: np.ndarray, volts: np.ndarray, word: float, bit: float) -> str:
    rows, cols = conductance.shape
    lines = ["crossbar"]
    lines += [f"V{i} w{i}_0 0 {float(volts[i])!r}" for i in range(rows)]
    lines += [f"VS{j} b{rows}_{j} 0 0" for j in range(cols)]
    for i in range(rows):
        for j in range(cols):
            lines.append(f"RW{i}_{j} w{i}_{j} w{i}_{j + 1} {word!r}")
            lines.append(f"RD{i}_{j} w{i}_{j + 1} b{i}_{j} {1.0 / float(conductance[i, j])!r}")
            lines.append(f"RB{i}_{j} b{i}_{j} b{i + 1}_{j} {bit!r}")
    prints = " ".join(f"i(vs{j})" for j in range(cols))
    return "\n".join([*lines, ".control", "set numdgt=12", "op", f"print {prints}", ".endc", ".end", ""])


@pytest.mark.parametrize(("rows", "cols", "word", "bit"), GRIDS[:3])
def test_column_currents_are_ngspices(rows: int, cols: int, word: float, bit: float, tmp_path: Path) -> None:
    if shutil.which("ngspice") is None:
        pytest.skip("ngspice is not installed (Debian: apt-get install ngspice)")
    conductance, volts = grid(rows, cols)
    path = tmp_path / "grid.cir"
    path.write_text(netlist(conductance, volts, word, bit))
    done = subprocess.run(["ngspice", "-b", str(path)], capture_output=True, text=True, timeout=60, check=False)
    pairs = dict(line.split(" = ") for line in done.stdout.splitlines() if line.startswith("i(vs"))
    solved = np.array([float(pairs[f"i(vs{j})"]) for j in range(cols)])
    found = volts @ effective_conductance(conductance, word, bit)
    assert np.abs(found / solved - 1.0).max() < 1e-3


def test_wires_of_vanishing_resistance_change_nothing() -> None:
    """A relative change of about (rows + cols)·R·G·cols = 60 · 1e-9 · 1e-4 · 30."""
    conductance, _ = grid(30, 30)
    assert np.allclose(effective_conductance(conductance, 1e-9, 1e-9), conductance, rtol=1e-9)


def test_resistance_only_takes_current_away_and_most_in_the_far_corner() -> None:
    conductance = np.full((32, 32), 5e-5)
    found = effective_conductance(conductance, 1.0, 1.0) / conductance
    assert found.max() < 1.0
    assert found[0, -1] == found.min()


@pytest.mark.parametrize("name", ["pcm-generic", "rram-cmo", "pcm-hermes"])
def test_every_crossbar_can_have_wires(name: str) -> None:
    plain = load_profile(name)
    wired = msgspec.structs.replace(plain, wires=Wires(2.0, 2.0, 40.0))
    weights = []
    for profile in (plain, wired):
        twin = TwinDriver(profile, 1)
        twin.program(0, np.full((40, 30), profile.weights.levels, dtype=np.int32))
        weights.append(twin.weights(0).astype(np.float64) * profile.weight_unit)
    assert np.allclose(loaded(weights[0], wired), weights[1], atol=1e-5)
    assert weights[1].mean() < 0.98 * weights[0].mean()
