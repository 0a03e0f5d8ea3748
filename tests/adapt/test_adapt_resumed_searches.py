"""A search that is interrupted goes on where it was: the result is that of one that was not, to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hyle_compiler.adapt.method import AdaptError, Budget
from hyle_compiler.adapt.registry import load_method
from hyle_compiler.adapt.searching import Search

BUDGET = Budget(steps=3, batch=40)


def interrupted(monkeypatch: pytest.MonkeyPatch, task, name: str, losses: int):  # type: ignore[no-untyped-def]
    """Run until so many losses were measured; an interrupt comes in the middle of the next."""
    measure, count = Search._measure, 0

    def once(self, knobs, samples, device):  # type: ignore[no-untyped-def]
        nonlocal count
        count += 1
        if count > losses:
            raise KeyboardInterrupt
        return measure(self, knobs, samples, device)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_measure", once)
        return load_method(name).run(task)


@pytest.mark.parametrize(("name", "losses"), [("spsa", [9, 2]), ("finite-difference", [60]), ("cma-es", [25, 10])])
def test_a_resumed_search_is_the_uninterrupted_one_to_the_bit(given, tmp_path, monkeypatch, name, losses) -> None:  # type: ignore[no-untyped-def]
    """It is interrupted within a step, and where that is cheap again."""
    pytest.importorskip("cma", reason="cma is not installed (extra [train])")
    it = given()
    plain = load_method(name).run(it.task(budget=BUDGET))
    task = it.task(budget=BUDGET, checkpoint=tmp_path / "best.npz")
    for count in losses:
        assert interrupted(monkeypatch, task, name, count).outcome == "stopped"
    resumed = load_method(name).run(task)
    assert (resumed.history, resumed.passes, resumed.loss) == (plain.history, plain.passes, plain.loss)
    for layer, matrix in plain.matrices.items():
        assert np.array_equal(resumed.matrices[layer], matrix)
        assert np.array_equal(resumed.biases[layer], plain.biases[layer])


def test_what_was_measured_is_not_measured_again(given, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    task = given().task(budget=BUDGET, checkpoint=tmp_path / "best.npz")
    done = load_method("spsa").run(task)

    def never(*_: object) -> float:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(Search, "_measure", never)
    assert load_method("spsa").run(task).history == done.history


@pytest.mark.parametrize("what", ["seed", "samples", "settings"])
def test_a_search_under_other_terms_is_refused(given, tmp_path, what) -> None:  # type: ignore[no-untyped-def]
    it = given()
    task = it.task(budget=BUDGET, checkpoint=tmp_path / "best.npz")
    load_method("spsa").run(task)
    method = load_method("spsa")
    if what == "seed":
        task = dataclasses.replace(task, seed=1)
    if what == "samples":
        task = dataclasses.replace(task, samples=it.samples.head(200))
    if what == "settings":
        method = dataclasses.replace(method, reach=0.03)  # type: ignore[type-var]
    with pytest.raises(AdaptError, match="another search") as caught:
        method.run(task)
    assert caught.value.remedy
