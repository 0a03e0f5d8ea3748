"""The self-test's bound lets healthy devices pass that nobody has seen, however few were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hyle_bundle import open_bundle
from hyle_bundle.manifest import Golden
from hyle_compiler.errors import VerificationError
from hyle_compiler.evaluate import AgeResult, Evaluation, tensor_file
from hyle_compiler.exactness import IDEAL_TOLERANCE
from hyle_compiler.pipeline import Options, compile_model
from hyle_compiler.self_test_bound import bound_warnings, golden_of, self_test_bound
from hyle_runtime.body import Body
from hyle_substrates.profile import decode_profile, find_profile
from hyle_substrates.twin import TwinDriver
from onnx import numpy_helper, parser

DATA = Path(__file__).resolve().parents[1] / "data"
MEANS = np.array([0.02, 0.04, 0.12])


def evaluation(residuals: np.ndarray) -> Evaluation:
    """Ages by instances."""
    scores = (1.0,) * residuals.shape[1]
    return Evaluation("top-1", 1, tuple(AgeResult(1.0, scores, tuple(row), np.ones(1)) for row in residuals.tolist()))


@pytest.mark.parametrize("instances", [1, 2, 3, 4, 6, 16])
def test_a_further_healthy_instance_passes_at_every_age(instances: int) -> None:
    """Instances differ by a tenth at all ages alike, which tells least, and at the worst age by more than is taken.

    The spread at the worst age is s = 0.1 of its mean; taken for it is s times the root of the mean of the ages' means
    over the worst one's, 0.71. Beyond the bound of n instances lies one in P(t with n - 1 degrees > 0.71 sigmas /
    sqrt(1 + 1 / n)): 2.0 % of two, 1.5 % of three, 1.2 % of four, 0.6 % of six. Two thousand draws have 41, 30, 24, 11;
    75 is five standard deviations above the first.
    """
    random = np.random.default_rng(instances)
    missed = 0
    for _ in range(2000):
        differ = 1.0 + 0.1 * random.standard_normal(instances + 1)
        bound, _ = self_test_bound(evaluation(MEANS[:, None] * differ[:-1]))
        missed += bool(np.any(MEANS * differ[-1] > bound))
        assert bound < 4.5 * MEANS.max()
    assert missed <= 75


def test_spreads_of_all_ages_count_together_and_the_worst_age_for_the_bound() -> None:
    residuals = np.array([[1.0, 1.2, 0.8, 1.0], [2.0, 2.0, 2.0, 2.0]])
    # Two ages of four instances are six degrees of freedom; the second age has no spread of its own.
    bound, text = self_test_bound(evaluation(residuals))
    assert bound == pytest.approx(2.0 + 8.02 * np.sqrt(1.25) * np.sqrt(0.08 / 6) * np.sqrt(2.0), rel=1e-5)
    assert "4 twin instances at 2 ages" in text
    many, _ = self_test_bound(evaluation(np.hstack([residuals] * 3)))
    assert many == pytest.approx(2.0 + 6.0 * np.sqrt(3 * 0.08 / 22) * np.sqrt(2.0), rel=1e-5)


def test_one_instance_is_no_yardstick_for_the_next() -> None:
    bound, text = self_test_bound(evaluation(MEANS[:, None]))
    assert bound == pytest.approx(0.36)
    assert "one twin instance" in text


def test_perfect_matter_is_held_to_rounding() -> None:
    assert self_test_bound(evaluation(np.zeros((1, 6))))[0] == pytest.approx(IDEAL_TOLERANCE)
    assert self_test_bound(evaluation(np.zeros((1, 1))))[0] == pytest.approx(IDEAL_TOLERANCE)


def test_a_fitted_twins_error_may_be_the_same_for_all_vectors() -> None:
    assert self_test_bound(evaluation(MEANS[:, None] * np.ones(6)), fitted=True)[0] == pytest.approx(0.36)


def test_matter_without_noise_does_not_tell_how_devices_differ() -> None:
    """Instances that are alike leave no spread; the sixth digit of their residual must not decide over a device."""
    residuals = np.full((3, 6), 0.00123456789)
    assert self_test_bound(evaluation(residuals))[0] == pytest.approx(3 * 0.00123456789, rel=1e-5)
    residuals[1, 1] *= 1.0001
    assert "alike" in self_test_bound(evaluation(residuals))[1]


def test_no_bound_is_taken_from_answers_that_are_no_numbers() -> None:
    with pytest.raises(VerificationError):
        self_test_bound(evaluation(np.array([[0.1, np.nan]])))


def test_what_drifted_on_since_its_correction_decides_where_it_was_measured() -> None:
    before, after = evaluation(MEANS[:, None] * [0.9, 1.0, 1.1]), evaluation(MEANS[:, None] * [1.8, 2.0, 2.2])
    both = [
        AgeResult(1.0, a.scores, a.residuals, a.rights, b.residuals)
        for a, b in zip(before.ages, after.ages, strict=True)
    ]
    bound, text = self_test_bound(Evaluation("top-1", 1, tuple(both)))
    assert bound == self_test_bound(after)[0] > self_test_bound(before)[0]
    assert text.endswith("at twice the age at which they were corrected")


@pytest.mark.parametrize(("later", "corrected"), [(2.0, True), (0.5, False)])
def test_the_wider_bound_holds_in_between_and_says_what_it_is_of(later: float, corrected: bool) -> None:
    rows = MEANS[:, None] * [0.9, 1.0, 1.1]
    pairs = zip(evaluation(rows).ages, evaluation(later * rows).ages, strict=True)
    both = [AgeResult(1.0, a.scores, a.residuals, a.rights, b.residuals) for a, b in pairs]
    golden = golden_of(32, Evaluation("top-1", 1, tuple(both)))
    narrow, wide = sorted(self_test_bound(evaluation(scale * rows))[0] for scale in (1.0, later))
    assert (golden.tolerance, golden.corrected) == (wide, narrow if corrected else 0.0)
    assert golden.derivation.endswith("at twice the age at which they were corrected") == corrected


@pytest.mark.parametrize("target", ["pcm-generic", "pcm-hermes", "flash-sonos"])
def test_a_healthy_device_passes_until_it_is_twice_as_old_as_when_it_was_corrected(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instances that the compiler did not see, at ages that it did not see; six standard deviations are allowed."""
    profile, text = find_profile(target)
    data = DATA / "digits_mlp"
    compile_model(data / "model.onnx", data / "calib.npz", profile, text, tmp_path / "m.hyle", Options(name="m"))
    with open_bundle(tmp_path / "m.hyle") as bundle:
        bundle.extract(tmp_path / "files")
        manifest = bundle.manifest
    held = decode_profile((tmp_path / "files" / "profile.toml").read_bytes())
    tensors = [tensor_file(tmp_path / "files" / f"{name}.safetensors") for name in ("programming", "golden")]
    for seed in (101, 102, 103):
        driver = TwinDriver(held, seed)
        body = Body(tmp_path / "files", manifest, *tensors, driver, threads=1)
        body.program(correct=False)
        for age in (3600.0, 5 * 86400.0, 100 * 86400.0):
            driver.advance(age)
            body.recalibrate()
            soon = body.self_test()
            assert body.self_test().tolerance == manifest.golden.tolerance > soon.tolerance == manifest.golden.corrected
            driver.advance(1.9 * age)
            body.renew()
            later = body.self_test()
            assert soon.passed, (seed, age, soon)
            assert later.passed, (seed, age, later)
    monkeypatch.setattr("hyle_runtime.body.JUST_S", 0.0)
    body.recalibrate()
    assert body.self_test().tolerance == manifest.golden.tolerance, "that correction was a while ago"


def test_a_test_that_a_silent_device_would_pass_is_warned_of() -> None:
    assert bound_warnings(Golden(32, 0.99, "")) == []
    found = bound_warnings(Golden(32, 1.4, ""))
    assert "1.4" in found[0]["message"]
    assert found[0]["remedy"]


@pytest.mark.parametrize(("samples", "warned"), [(1, True), (64, False)])
def test_the_report_says_so(samples: int, warned: bool, tmp_path: Path) -> None:
    """Layer by layer one sample is one probe, which corrects nothing."""
    random = np.random.default_rng(0)
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N,16] x) => (float[N,5] y) { y = MatMul(x, w) }'
    model = parser.parse_model(text)
    weights = random.standard_normal((16, 5)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(model, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=random.standard_normal((samples, 16)).astype(np.float32))
    profile, toml = find_profile("pcm-generic")
    options = Options(instances=2, stream=True)
    done = compile_model(tmp_path / "m.onnx", tmp_path / "c.npz", profile, toml, tmp_path / "o.hyle", options)
    assert (done.manifest.golden.tolerance >= 1.0) == warned
    assert any("answered nothing" in warning["message"] for warning in done.report["warnings"]) == warned
