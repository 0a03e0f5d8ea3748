"""The drift detector's rates, by two formulas and by simulation, and a short year of an agent on drifting matter."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hyle_agent.cusum import Cusum, chain_arl, limit_for, siegmund_arl
from hyle_agent.drift import CONFIDENCE, LEARNED, DriftDetector, learn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.parametrize("arl", [50.0, 370.0, 8760.0, 105_120.0])
def test_the_limit_has_the_stated_false_alarm_rate_by_both_formulas(arl: float) -> None:
    limit = limit_for(arl)
    assert siegmund_arl(limit) == pytest.approx(arl, rel=1e-6)
    # Siegmund states his approximation within a few percent of the exact ARL for limits of 2 and more.
    assert chain_arl(limit) == pytest.approx(arl, rel=0.05)


def run_lengths(limit: float, shift: float, runs: int, seed: int) -> np.ndarray:
    """Simulated run lengths of many sums at once."""
    rng = np.random.default_rng(seed)
    score, length = np.zeros(runs), np.zeros(runs, dtype=int)
    alive = np.ones(runs, dtype=bool)
    while alive.any():
        score[alive] = np.maximum(0.0, score[alive] + rng.standard_normal(alive.sum()) + shift - 0.5)
        length[alive] += 1
        alive &= score <= limit
    return length


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_simulated_run_lengths_have_the_computed_mean(shift: float) -> None:
    limit = limit_for(200.0)
    lengths = run_lengths(limit, shift, 2000, seed=4)
    # Four standard errors: wrong once in 16,000 seeds if the chain is right, whose own error is below 1 %.
    allowed = 4.0 * lengths.std() / math.sqrt(len(lengths)) + 0.01 * lengths.mean()
    assert abs(lengths.mean() - chain_arl(limit, shift)) <= allowed


def test_one_sum_and_many_at_once_are_the_same() -> None:
    observations = np.random.default_rng(3).standard_normal(4000) + 0.2
    one, limit = Cusum(4.0), 4.0
    score, alarms = 0.0, []
    for number, value in enumerate(observations):
        score = max(0.0, score + value - 0.5)
        if score > limit:
            alarms.append(number)
            score = 0.0
    assert [number for number, value in enumerate(observations) if one.add(float(value))] == alarms
    assert len(alarms) > 5


def test_false_alarms_are_no_more_frequent_than_stated_although_the_reference_is_a_sample() -> None:
    """Of 400 detectors with references of their own, those with a true rate above the stated one are at most the
    share 2·(1 - CONFIDENCE) of the bound; the count's own chance is allowed for with four standard deviations."""
    rng, detectors, arl = np.random.default_rng(11), 400, 300.0
    limit, faster = limit_for(arl), 0
    for _ in range(detectors):
        reference = learn(list(0.05 + 0.004 * rng.standard_normal(LEARNED)), 1e-9)
        # In the reference's units the truth is a normal of another mean and deviation: the ARL follows from scaling.
        scale = 0.004 / reference.std
        true_arl = chain_arl(limit / scale, (0.05 - reference.mean) / 0.004, 0.5 / scale, states=60)
        faster += true_arl < arl
    share = 2.0 * (1.0 - CONFIDENCE)
    assert faster <= detectors * share + 4.0 * math.sqrt(detectors * share * (1.0 - share))


def test_a_drift_of_two_deviations_is_found_and_stillness_is_not() -> None:
    rng = np.random.default_rng(7)
    detector = DriftDetector(10_000.0)
    for _ in range(LEARNED + 400):
        assert not detector.observe(0.05 + 0.002 * rng.standard_normal(), 0.12)
    delay = next(n for n in range(1, 500) if detector.observe(0.056 + 0.002 * rng.standard_normal(), 0.12))
    assert detector.reference is not None
    expected = siegmund_arl(detector.limit, (0.056 - detector.reference.mean) / detector.reference.std)
    assert delay <= 4.0 * expected
    assert detector.alarms == 1


def test_a_residual_that_never_varies_raises_no_alarm_for_what_does_not_matter() -> None:
    detector = DriftDetector(1000.0)
    for _ in range(LEARNED):
        detector.observe(0.01, 0.1)
    assert not any(detector.observe(0.0101, 0.1) for _ in range(1000))
    assert any(detector.observe(0.02, 0.1) for _ in range(20))


def test_a_restart_learns_anew() -> None:
    detector = DriftDetector(1000.0)
    for _ in range(LEARNED):
        detector.observe(0.01, 0.1)
    assert detector.reference is not None
    detector.restart()
    assert detector.reference is None
    assert not any(detector.observe(0.09, 0.1) for _ in range(LEARNED))


@pytest.mark.parametrize("target", ["pcm-generic", "pcm-generic/global", "flash-sonos"])
def test_an_agent_that_calibrates_itself_stays_within_its_bound_where_one_that_does_not_leaves_it(
    target: str, tmp_path: Path
) -> None:
    from bench_drift import ROOT, compiled, live

    data = ROOT / "digits_mlp"
    bundle = compiled(target, data, tmp_path)
    with np.load(data / "eval.npz") as file:
        samples = {name: file[name] for name in file.files}
    cared = live(bundle, samples, 1, 40.0, 1.0, cared=True)
    alone = live(bundle, samples, 1, 40.0, 1.0, cared=False)
    still = live(bundle, samples, 1, 40.0, 1.0, cared=True, drifts=False)
    assert cared.failures == 0
    assert still.alarms == []
    if target == "pcm-generic":
        assert alone.failures > 0
        assert cared.recalibrations > 0
    # 450 samples: three standard errors of a paired difference, at most a tenth of which disagree.
    assert cared.accuracy["30 d"] >= alone.accuracy["30 d"] - 3.0 * math.sqrt(0.1 / 450)
