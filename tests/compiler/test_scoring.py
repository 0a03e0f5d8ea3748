"""What counts as a right answer, for classes, tokens, maps, single numbers and integers."""

from __future__ import annotations

import numpy as np
import pytest
from hyle_bundle.scoring import LabelsError, choices, rights, score

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(20, 5), (20, 7, 5), (20, 3, 4, 6), (20,), (20, 1), (20, 7, 1), (20, 1, 4, 6)])
def test_a_model_agrees_with_its_own_choices(shape: tuple[int, ...]) -> None:
    answers = RNG.standard_normal(shape).astype(np.float32)
    assert score(answers, choices(answers)) == 1.0
    assert score(-answers, choices(answers)) < 0.5


def test_classes_tokens_and_maps_are_held_against_labels() -> None:
    answers = RNG.standard_normal((20, 7, 5)).astype(np.float32)
    labels = answers.argmax(-1)
    labels[0, 0] = (labels[0, 0] + 1) % 5
    assert score(answers, labels) == pytest.approx(1 - 1 / 140)
    assert score(answers, answers[:, 0].argmax(-1)) == 1.0
    maps = RNG.standard_normal((4, 3, 6, 6)).astype(np.float32)
    assert score(maps, maps.argmax(1)) == 1.0
    assert score(answers[:, 0], answers[:, 0].argmax(-1)[:, None]) == 1.0


def test_single_numbers_are_classes_of_two_or_values() -> None:
    logits = np.array([-2.0, 3.0, -0.1, 0.4], dtype=np.float32)
    assert score(logits[:, None], np.array([0, 1, 1, 1])) == 0.75
    assert score(np.array([0.2, 0.9, 0.6], dtype=np.float32), np.array([0, 1, 0])) == pytest.approx(2 / 3)
    wanted = np.array([0.0, 10.0, 20.0, 30.0], dtype=np.float32)
    assert score(wanted + np.array([0, 0.5, 5, 0], dtype=np.float32), wanted) == 0.75
    assert score(np.array([3, 4, 5]), np.array([3, 4, 6])) == pytest.approx(2 / 3)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LabelsError) as error:
        score(RNG.standard_normal((6, 5)), np.zeros((6, 4, 2)))
    assert error.value.remedy


def test_every_sample_has_its_share_of_right_positions() -> None:
    answers = np.eye(3, dtype=np.float32)[np.array([[0, 1], [2, 2]])]
    assert rights(answers, np.array([[0, 2], [2, 2]])).tolist() == [0.5, 1.0]
