"""Threads that share one caller's work, and a twin's batch among them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hyle_runtime.body import AHEAD_MACS, SHARE_MACS, Body
from hyle_runtime.crew import Crew, cores
from hyle_substrates.profile import decode_profile, find_profile
from hyle_substrates.twin import TwinDriver
from hypothesis import given
from hypothesis import strategies as st
from test_body import body_on, compiled, images


@given(st.integers(1, 4), st.lists(st.integers(), max_size=20))
def test_results_come_in_the_order_of_the_items(size: int, items: list[int]) -> None:
    crew = Crew(size)
    assert crew.map(lambda item: item + 1, items) == [item + 1 for item in items]
    crew.close()


def test_as_many_work_at_once_as_the_crew_has() -> None:
    """The barrier opens for three only, so that fewer would hang until it breaks."""
    crew, barrier = Crew(3), threading.Barrier(3)
    names = crew.map(lambda item: (barrier.wait(20), threading.current_thread().name)[1], range(3))
    assert len(set(names)) == 3
    assert threading.current_thread().name in names
    crew.close()


def test_a_failure_ends_what_was_not_begun_and_is_raised() -> None:
    crew, begun = Crew(2), []

    def work(item: int) -> None:
        begun.append(item)
        raise ValueError(item)

    with pytest.raises(ValueError, match=r"^[01]$"):
        crew.map(work, range(50))
    assert len(begun) <= 2
    assert crew.map(lambda item: item, [1, 2, 3]) == [1, 2, 3]
    crew.close()
    assert crew.map(lambda item: item, [1, 2, 3]) == [1, 2, 3]
    crew.close()


def test_nobody_waits_for_a_thread_that_is_busy_elsewhere() -> None:
    crew, begun, go = Crew(2), threading.Barrier(3), threading.Event()
    answers: list[list[int]] = []

    def held(item: int) -> int:
        begun.wait(20)
        assert go.wait(20)
        return item

    other = threading.Thread(target=lambda: answers.append(crew.map(held, [1, 2])))
    other.start()
    begun.wait(20)
    assert crew.map(lambda item: item, range(5)) == [0, 1, 2, 3, 4]
    assert not answers
    go.set()
    other.join(20)
    assert answers == [[1, 2]]
    crew.close()


def test_threads_end_with_the_crew() -> None:
    before, crew = set(threading.enumerate()), Crew(3)
    crew.map(lambda item: item, range(9))
    others = set(threading.enumerate()) - before
    assert len(others) == 2
    del crew
    for thread in others:
        thread.join(20)
    assert not any(thread.is_alive() for thread in others)


def test_a_crew_that_is_closed_while_others_work_leaves_none_without_an_answer() -> None:
    crew, wrong = Crew(2), []

    def ask() -> None:
        for _ in range(200):
            if crew.map(lambda item: item, range(4)) != [0, 1, 2, 3]:
                wrong.append(1)
        done.append(1)

    done: list[int] = []
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        crew.close()
    crew.close()
    assert (wrong, len(done)) == ([], 2)


def test_one_alone_starts_no_thread_and_zero_is_one_a_core() -> None:
    before = threading.active_count()
    assert Crew(1).map(lambda item: item, range(9)) == list(range(9))
    assert Crew(8).map(lambda item: item, [5]) == [5]
    assert threading.active_count() == before
    assert Crew(0).size == cores()


def test_portions_side_by_side_give_what_one_after_another_gives(tmp_path: Path) -> None:
    """Without noise; 61 samples, so that the last portion is smaller."""
    _, text = find_profile("pcm-hermes")
    profile = decode_profile(text)
    folder, manifest = compiled(tmp_path, "digits_cnn", profile, text)
    feed = images("digits_cnn", 61)
    one, several = (
        body_on(folder, manifest, TwinDriver(profile, 1, noiseless=True), noiseless=True, side_by_side=size)
        for size in (1, 3)
    )
    np.testing.assert_allclose(several.run(feed)["output"], one.run(feed)["output"], rtol=1e-5, atol=1e-5)
    assert (one.crowded, several.crowded) == (False, True)
    several.close()


@given(
    samples=st.integers(0, 400),
    macs=st.sampled_from([1, 100_000, 1_560_000, 10**8]),
    size=st.integers(1, 16),
    portion=st.sampled_from([8, 50, 10**6]),
)
def test_a_batch_is_cut_so_that_nobody_waits_long(samples: int, macs: int, size: int, portion: int) -> None:
    body = Body.__new__(Body)
    body._macs, body._portion, body._crew = macs, portion, Crew(size)
    sizes = body._sizes(samples)
    assert sum(sizes) == samples
    assert samples == 0 or min(sizes) > 0
    ahead = AHEAD_MACS // macs
    # The caller begins while the others wake; what they are given is alike to one sample, and worth waking them.
    assert sizes[0] <= portion + ahead
    assert max(sizes[1:], default=0) <= portion
    assert max(sizes[1:], default=0) - min(sizes[1:], default=0) <= 1
    if len(sizes) > 1:
        assert sizes[0] - max(sizes[1:]) <= ahead + 1
    if len(sizes) > 1 and samples <= portion:
        assert min(sizes) * macs >= SHARE_MACS
