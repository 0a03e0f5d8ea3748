"""`hyle fit`: the twin of a black box, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from boxes import Bent
from hyle_compiler.fitting.drive import Plan
from hyle_compiler.fitting.fit import FitOptions, fit_device
from hyle_compiler.fitting.graph import read_fit
from hyle_errors import CallerError
from hyle_substrates.driver import DeviceError
from hyle_substrates.fit_record import FitError

from hyle.cli import main

QUICK = FitOptions(samples=400)


def straight(fails: Callable[[int], bool] = lambda call: False, identity: str = "bent:1") -> Bent:
    """A device that is linear, so that its fit is quick."""
    return Bent(bend=1e-3, fails=fails, identity=identity)


def predict(path: Path, parameters: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {"parameters": parameters.astype(np.float32), "inputs": inputs.astype(np.float32)}
    names = {i.name for i in session.get_inputs()}
    return session.run(None, {name: value for name, value in feed.items() if name in names})[0]


@pytest.mark.parametrize("box", [Bent(), Bent(parameters=0, low=0.0, high=3.3), Bent(bend=1e-3)])
def test_a_twin_predicts_its_device_and_says_how_well(box: Bent, tmp_path: Path) -> None:
    path = tmp_path / "bent.onnx"
    record = fit_device(box, path, QUICK)
    onnx.checker.check_model(str(path))
    info = box.describe()
    rng = np.random.default_rng(99)
    parameters, inputs = (rng.uniform(info.low, info.high, (500, n)) for n in (info.parameters, info.inputs))
    exact = box.exact(parameters, inputs)
    signal = np.std(exact - exact.mean(axis=0))
    wrong = float(np.sqrt(np.mean((predict(path, parameters, inputs) - exact) ** 2))) / signal
    # What the record says of uniform drive is measured against noisy readings: both parts add in squares.
    # 80 held-out samples of five readings know a standard deviation to 1/sqrt(800) = 4 %: five of these.
    noise = 0.01 / signal
    assert wrong <= 1.2 * record.drives["uniform"]
    assert record.drives["uniform"] >= 0.8 * noise
    assert record.correlation.low <= record.correlation.value <= record.correlation.high
    assert record.correlation.value > 0.99
    # 19 repeated samples of five readings: 7 % standard deviation, of which five.
    assert record.repeatability <= 1.4 * record.error.value
    assert set(record.drives) == {"uniform", "narrow", "corners"}
    if record.family == "linear":
        assert wrong < 0.01
        assert record.repeatability >= 0.6 * record.error.value


class HalfDeaf(Bent):
    """One of its readings follows nothing."""

    def respond(self, parameters: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        answer = super().respond(parameters, inputs)
        answer[:, 0] = 0.1 + 0.05 * self._rng.standard_normal(len(answer))
        return answer


def test_a_reading_that_is_all_noise_costs_the_others_little(tmp_path: Path) -> None:
    """The other one is predicted about as well as where both follow.

    Over seeds and sizes the errors' ratio is 1.3 ± 0.23, as repeats tell noise from signal to a third only: three
    standard deviations. Where one average over the readings decides, the fit stops at a straight line, six times off.
    """
    wrong = []
    for box in (Bent(outputs=2), HalfDeaf(outputs=2)):
        fit_device(box, tmp_path / "twin.onnx", QUICK)
        rng = np.random.default_rng(99)
        parameters, inputs = rng.uniform(-1, 1, (500, 2)), rng.uniform(-1, 1, (500, 6))
        off = (predict(tmp_path / "twin.onnx", parameters, inputs) - box.exact(parameters, inputs))[:, 1]
        wrong.append(float(np.sqrt(np.mean(off**2))))
    assert wrong[1] < 2.0 * wrong[0], wrong


def test_the_same_seed_asks_the_same_and_another_one_something_else() -> None:
    info = Bent().describe()
    first, again, other = (Plan.draw(info, 100, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)
    train, validation, held = first.roles(100)
    assert not (train & validation).any()
    assert not ((train | validation) & held).any()
    second = np.flatnonzero(first.repeats >= 0)
    assert len(second) == 4
    assert held[first.repeats[second]].all()
    assert (first.repeats[second] < second).all()


def test_a_device_that_fails_now_and_then_is_asked_again(tmp_path: Path) -> None:
    box = straight(fails=lambda call: call in (2, 4))
    record = fit_device(box, tmp_path / "bent.onnx", QUICK)
    assert record.correlation.value > 0.99
    assert not (tmp_path / "bent.onnx.part").exists()


def test_a_fit_goes_on_where_its_device_went_away(tmp_path: Path) -> None:
    away = straight(fails=lambda call: call > 2)
    with pytest.raises(DeviceError, match=r"three times|3 times") as caught:
        fit_device(away, tmp_path / "bent.onnx", QUICK)
    assert "again to go on" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bent.onnx.part"]
    back = straight()
    fit_device(back, tmp_path / "bent.onnx", QUICK)
    assert back.samples == 400 - away.samples
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bent.onnx"]


def test_what_another_device_answered_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        fit_device(straight(fails=lambda call: call > 2, identity="bent:2"), tmp_path / "bent.onnx", QUICK)
    box = straight()
    fit_device(box, tmp_path / "bent.onnx", QUICK)
    assert box.samples == 400


def test_an_older_twin_stays_when_a_new_fit_fails(tmp_path: Path) -> None:
    path = tmp_path / "bent.onnx"
    fit_device(straight(), path, QUICK)
    before = path.read_bytes()
    with pytest.raises(DeviceError):
        fit_device(straight(fails=lambda call: True), path, FitOptions(samples=200, seed=1))
    assert path.read_bytes() == before


def test_a_device_that_does_not_follow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="do not follow"):
        fit_device(Bent(bend=0.0, noise=0.0), tmp_path / "dead.onnx", QUICK)
    with pytest.raises(FitError, match="too few"):
        fit_device(straight(), tmp_path / "few.onnx", FitOptions(samples=10))
    with pytest.raises(FitError, match="answered 0 samples"):
        fit_device(straight(), tmp_path / "late.onnx", FitOptions(limit_s=0.0))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_twin_is_refused(tmp_path: Path) -> None:
    plain = Path(__file__).parents[1] / "data/digits_mlp/model.onnx"
    with pytest.raises(FitError, match="no fitted twin"):
        read_fit(plain)
    path = tmp_path / "bent.onnx"
    fit_device(straight(), path, QUICK)
    record, _ = read_fit(path)
    assert (record.name, record.inputs, record.driver) == ("bent", 6, "")
    model = onnx.load(path)
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"inputs":6', '"inputs":7')
    onnx.save(model, path)
    with pytest.raises(CallerError, match="contradicts itself"):
        read_fit(path)


def test_the_command_refuses_what_has_no_twin_to_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "twin", "--option", "profile=ideal", "-o", str(tmp_path / "x.onnx"), "--json"]
    assert main(words) == 2
    assert "multiplies by matrices" in json.loads(capsys.readouterr().out)["error"]
    assert main(["fit", "nothing", "-o", str(tmp_path / "x.onnx")]) == 2
    assert "there is no driver" in capsys.readouterr().err
