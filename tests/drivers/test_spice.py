"""A circuit in ngspice, driven as a black box."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hyle_agent.drivers.spice import connect
from hyle_errors import CallerError
from hyle_substrates import conformance, conformance_black_box
from hyle_substrates.conformance import Subject
from hyle_substrates.driver import DeviceError

needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
DIVIDER = """
.subckt hyle p a b out lit
RP p out 2k
RA a out 1k
RB b out 1k
RG out 0 1k
RL out lit 1k
D1 lit 0 bent
.model bent d(is=1e-9 n=1.5)
.ends hyle
"""
SIZES = {"parameters": "1", "inputs": "2", "outputs": "2"}


@pytest.fixture
def options(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "divider.cir"
    path.write_text(DIVIDER)
    return {"netlist": str(path), **SIZES}


@needs_ngspice
def test_a_divider_answers_as_kirchhoff_and_shockley_say(options: dict[str, str]) -> None:
    box = connect(options)
    rng = np.random.default_rng(0)
    p, x = rng.uniform(-1, 1, (130, 1)), rng.uniform(-1, 1, (130, 2))
    out, lit = box.respond(p, x).T
    # Currents into `out` in mA, and the diode's own law at 27 °C; ngspice solves to a relative 1e-3 (RELTOL).
    diode = 1e-6 * (np.exp(lit / (1.5 * 0.0258649)) - 1.0)
    balance = (p[:, 0] - out) / 2 + (x[:, 0] - out) + (x[:, 1] - out) - out - (out - lit)
    assert np.abs(balance).max() < 1e-3
    assert np.abs((out - lit) - diode).max() < 5e-3


@needs_ngspice
def test_a_circuit_keeps_the_contract_of_a_black_box(options: dict[str, str]) -> None:
    findings = conformance.run(conformance_black_box.CHECKS, Subject(lambda: connect(options), None))
    assert not [finding for finding in findings if finding.outcome == "failed"]


@needs_ngspice
def test_a_circuit_without_an_operating_point_says_so(options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "short.cir"
    path.write_text(".subckt hyle a y\nVA a 0 1\nVB a 0 2\nR1 a y 1k\n.ends hyle\n")
    box = connect({"netlist": str(path), "inputs": "1", "outputs": "1"})
    with pytest.raises(DeviceError, match="could not solve"):
        box.respond(np.zeros((1, 0)), np.zeros((1, 1)))


@needs_ngspice
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"outputs": "3"}, "5 nodes"),
        ({"low_v": "1", "high_v": "1"}, "range"),
        ({"inputs": "many"}, "inputs"),
        ({"colour": "red"}, "no option"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, str], change: dict[str, str], word: str) -> None:
    with pytest.raises(CallerError, match=word):
        connect({**options, **change})


@needs_ngspice
def test_a_netlist_that_is_not_there_or_no_subcircuit_is_refused(options: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        connect({**options, "netlist": str(tmp_path / "nothing.cir")})
    (tmp_path / "empty.cir").write_text("* nothing\n")
    with pytest.raises(CallerError, match="subckt"):
        connect({**options, "netlist": str(tmp_path / "empty.cir")})


def test_without_ngspice_the_driver_says_how_to_get_it(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="not installed"):
        connect(options)
