"""Simulated black boxes: each held to the contract, and its physics to an independent one."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hyle_errors import CallerError
from hyle_substrates import conformance, conformance_black_box
from hyle_substrates.box_profile import BoxProfile, box_names, constants_of, load_box
from hyle_substrates.conformance import Subject
from hyle_substrates.physics import diode_network, oscillators
from hyle_substrates.profile import ProfileError
from hyle_substrates.simulated_box import SimulatedBox, connect

BOLTZMANN_V = 8.617333e-5 * 300.15


def drawn(name: str, samples: int, seed: int = 0) -> tuple[SimulatedBox, np.ndarray, np.ndarray]:
    box = SimulatedBox(load_box(name), 1, noiseless=True)
    info = box.describe()
    rng = np.random.default_rng(seed)
    return box, rng.uniform(-1, 1, (samples, info.parameters)), rng.uniform(-1, 1, (samples, info.inputs))


@pytest.mark.parametrize("name", box_names())
def test_a_simulated_black_box_keeps_the_contract(name: str) -> None:
    findings = conformance.run(conformance_black_box.CHECKS, Subject(lambda: connect({"profile": name})))
    assert not [finding for finding in findings if finding.outcome == "failed"]
    sheet = load_box(name)
    assert sheet.name == name
    assert sheet.sources
    assert "assumption" in sheet.validity


@pytest.mark.parametrize("name", box_names())
def test_a_seed_is_a_device_and_readings_have_the_stated_noise(name: str) -> None:
    box, parameters, inputs = drawn(name, 200)
    first, again = (SimulatedBox(load_box(name), 1).respond(parameters, inputs) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    exact = box.respond(parameters, inputs)
    assert not np.allclose(
        exact, SimulatedBox(load_box(name), 2, noiseless=True).respond(parameters, inputs), atol=1e-4
    )
    noise = (first - exact).ravel()
    # The standard deviation of n normal deviates is known to 1/sqrt(2n): five of these.
    assert abs(noise.std() / load_box(name).noise_std - 1.0) < 5.0 / np.sqrt(2 * noise.size)


def test_what_is_wrong_with_a_sheet_or_an_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no black box 'nothing'"):
        load_box("nothing")
    text = Path(oscillators.__file__).parents[1] / "profiles/black_boxes/oscillators-wang2019.toml"
    wrong = tmp_path / "wrong.toml"
    for old, new, match in (
        ("outputs = 8", "outputs = 7", "outputs is 7"),
        ("binding = 1.0", "binding = -1.0", "binding"),
        ('black_box = "oscillators"', 'black_box = "pendulums"', "pendulums"),
        ("inputs = 8", "inputs = 0", "inputs"),
    ):
        wrong.write_text(text.read_text().replace(old, new))
        with pytest.raises(ProfileError, match=match):
            load_box(str(wrong))
    for options in ({}, {"profile": "oscillators-wang2019", "seed": "-1"}, {"profile": "x", "colour": "red"}):
        with pytest.raises(CallerError):
            connect(options)


@pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
def test_the_diode_network_settles_where_ngspice_does(tmp_path: Path) -> None:
    box, parameters, inputs = drawn("diodes-kendall2020", 12)
    sheet = load_box("diodes-kendall2020")
    answers = box.respond(parameters, inputs)
    for sample in range(len(inputs)):
        want = spice(sheet, box._device, parameters[sample], inputs[sample], tmp_path)
        # ngspice stops when no voltage moves by more than reltol = 1e-6 of itself.
        np.testing.assert_allclose(answers[sample], want, rtol=0.0, atol=1e-4)
    straight = box.respond(np.repeat(parameters[:1], 3, axis=0), np.array([inputs[0], -inputs[0], 0.0 * inputs[0]]))
    bend = straight[0] + straight[1] - 2.0 * straight[2]
    # Without diodes the network is linear and odd: the bend would be rounding.
    assert np.abs(bend).max() > 0.01


def spice(
    sheet: BoxProfile, device: dict[str, np.ndarray], parameters: np.ndarray, x: np.ndarray, folder: Path
) -> np.ndarray:
    """Output voltages over the swing, from ngspice's operating point."""
    c = constants_of(sheet, diode_network.DiodeConstants)
    below, above = (g[0] for g in diode_network.conductances(sheet, device, parameters[None]))
    sources = c.swing_v * np.concatenate([x, [1.0], -x, [-1.0]])
    lines = [
        "network",
        f".model d1 d(is={c.i_sat_a} n={c.emission_v / BOLTZMANN_V})",
        ".options reltol=1e-6 vntol=1e-9",
    ]
    lines += [f"v{i} s{i} 0 {value:.12g}" for i, value in enumerate(sources)]
    lines += [f"ra{i}_{j} s{i} h{j} {1 / below[i, j]:.12g}" for i, j in np.ndindex(*below.shape)]
    lines += [f"rb{i}_{j} h{i} o{j} {1 / above[i, j]:.12g}" for i, j in np.ndindex(*above.shape)]
    lines += [f"d{j} {'0 h' if j % 2 == 0 else 'h'}{j}{'' if j % 2 == 0 else ' 0'} d1" for j in range(c.hidden)]
    names = [f"v(o{j})" for j in range(sheet.outputs)]
    lines += [".control", "set numdgt=12", "op", *[f"print {name}" for name in names], ".endc", ".end"]
    path = folder / "network.cir"
    path.write_text("\n".join(lines) + "\n")
    said = subprocess.run(["ngspice", "-b", str(path)], capture_output=True, text=True, timeout=60, check=False).stdout
    values = dict(line.split(" = ") for line in said.splitlines() if line.startswith("v(o"))
    return np.array([float(values[name]) for name in names]) / c.swing_v


def test_two_oscillators_follow_the_closed_form() -> None:
    # Without field and binding the difference d of two phases obeys d' = -2 J sin d: tan(d/2) falls by exp(-2 J t).
    for coupling in (0.7, -0.4):
        c = oscillators.OscillatorConstants(duration=3.0, step=0.01, binding=0.0)
        begin = np.array([[0.3, 2.1]])
        end = oscillators.evolve(begin, oscillators.couplings(np.array([[coupling]]), 2), np.zeros((1, 2)), c)
        want = np.tan((begin[0, 0] - begin[0, 1]) / 2) * np.exp(-2 * coupling * 3.0)
        # Runge-Kutta's global error is of the order step**4 = 1e-8.
        assert np.tan((end[0, 0] - end[0, 1]) / 2) == pytest.approx(want, rel=1e-6)
        assert end.sum() == pytest.approx(begin.sum(), abs=1e-9)


def test_the_oscillators_follow_an_integrator_of_somebody_else() -> None:
    solve_ivp = pytest.importorskip("scipy.integrate", reason="scipy is not installed").solve_ivp
    rng = np.random.default_rng(4)
    c = oscillators.OscillatorConstants(duration=5.0, step=0.05, binding=1.0)
    coupling = oscillators.couplings(rng.uniform(-1, 1, (1, 15)), 6)
    field, begin = rng.uniform(-1, 1, (1, 6)), rng.uniform(0, np.pi, (1, 6))

    def slope(time: float, theta: np.ndarray) -> np.ndarray:
        pull = np.array([sum(coupling[0, i, j] * np.sin(theta[i] - theta[j]) for j in range(6)) for i in range(6)])
        return -pull - field[0] * np.sin(theta) - c.binding * time / 5.0 * np.sin(2 * theta)

    want = solve_ivp(slope, (0.0, 5.0), begin[0], rtol=1e-10, atol=1e-10).y[:, -1]
    # step**4 times a fourth derivative of order (sum of couplings)**4 over 4!, on a run of length 5.
    np.testing.assert_allclose(oscillators.evolve(begin, coupling, field, c)[0], want, atol=5e-4)


def test_the_oscillators_find_small_ground_states() -> None:
    sheet = load_box("oscillators-wang2019")
    rng = np.random.default_rng(5)
    spins = np.array(list(itertools.product((-1.0, 1.0), repeat=8)))
    parameters, field = rng.uniform(-1, 1, (20, 28)), rng.uniform(-1, 1, (20, 8))
    runs = [SimulatedBox(sheet, seed, noiseless=True).respond(parameters, field) for seed in range(12)]
    found = []
    for problem, coupling in enumerate(oscillators.couplings(parameters, 8)):
        reached = np.where(np.stack([run[problem] for run in runs]) < 0.0, -1.0, 1.0)
        tried, ground = (energy(s, coupling, field[problem]).min() for s in (reached, spins))
        assert tried >= ground - 1e-9
        found.append(tried <= ground + 1e-9)
    # Brute force over 256 states of 20 random problems; twelve devices (starting phases) each.
    assert np.mean(found) >= 0.9, found


def energy(spins: np.ndarray, coupling: np.ndarray, field: np.ndarray) -> np.ndarray:
    return -0.5 * np.einsum("bi,ij,bj->b", spins, coupling, spins) - spins @ field


def test_the_reservoir_is_one_serial_delay_line_that_is_a_node_longer_than_the_mask() -> None:
    box, parameters, inputs = drawn("reservoir-paquot2012", 3)
    answers, mask = box.respond(parameters, inputs), box._device["mask"]
    for sample in range(3):
        # From the ranges of the sheet: feedback to 1.2, input gain to 1, bias to a quarter turn.
        alpha, beta, phi = (parameters[sample] + 1.0) / 2.0 * [1.2, 1.0, np.pi / 2.0]
        line = [0.0] * 51
        for u in inputs[sample]:
            for level in mask:
                line.append(np.sin(alpha * line[-51] + beta * level * u + phi))
        np.testing.assert_allclose(answers[sample], line[-50:], rtol=0.0, atol=1e-12)


def narma10(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Atiya & Parlos 2000, IEEE Trans. Neural Netw. 11, 697: inputs from 0 to 0.5 and the system's next outputs."""
    u = np.random.default_rng(seed).uniform(0.0, 0.5, count)
    y = np.zeros(count)
    for k in range(9, count - 1):
        y[k + 1] = 0.3 * y[k] + 0.05 * y[k] * y[k - 9 : k + 1].sum() + 1.5 * u[k] * u[k - 9] + 0.1
    return u, y


def test_the_reservoir_computes_narma10_and_products_that_no_linear_filter_does() -> None:
    box = SimulatedBox(load_box("reservoir-paquot2012"), 0)
    u, y = narma10(1600, 3)
    ends = np.arange(200, 1599)
    windows = np.stack([u[k - 39 : k + 1] for k in ends]) * 4.0 - 1.0

    def states(alpha: float, beta: float, phi: float) -> np.ndarray:
        parameters = np.array([alpha / 0.6 - 1.0, 2.0 * beta - 1.0, phi / (np.pi / 4) - 1.0])
        return box.respond(np.tile(parameters, (len(ends), 1)), windows)

    # Paquot et al. report 0.168 ± 0.015 for their 50 nodes; the model, with less noise, must not be worse.
    assert error_of(states(0.95, 0.05, 0.0), y[ends + 1]) < 0.168
    product = (u[ends] - 0.25) * (u[ends - 1] - 0.25)
    assert error_of(windows, product) > 0.9
    assert error_of(states(0.6, 0.5, 0.6), product) < 0.1


def error_of(states: np.ndarray, wanted: np.ndarray) -> float:
    """Normalised mean square error of a ridge read-out on the last 500 samples."""
    x = np.concatenate([states, np.ones((len(states), 1))], axis=1)
    train, test = slice(0, -500), slice(-500, None)
    gram = x[train].T @ x[train] + 1e-5 * np.eye(x.shape[1])
    w = np.linalg.solve(gram, x[train].T @ wanted[train])
    return float(np.mean((x[test] @ w - wanted[test]) ** 2) / np.var(wanted[test]))


def test_a_sheet_says_what_the_box_is() -> None:
    for name in box_names():
        sheet = msgspec.to_builtins(load_box(name))
        assert sheet["inputs"] >= 1
        assert sheet["title"]
