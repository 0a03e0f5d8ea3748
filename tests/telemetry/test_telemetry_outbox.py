"""The outbox: bounded, ordered, durable, and never in the way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hyle_agent.telemetry.edge_node import Sample
from hyle_agent.telemetry.outbox import FileOutbox, MemoryOutbox, Outbox, SafeOutbox
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS: dict[str, Callable[[Path, int], Outbox]] = {
    "memory": lambda _, bound: MemoryOutbox(bound),
    "file": lambda folder, bound: FileOutbox(str(folder / "outbox.sqlite"), bound),
    "safe": lambda folder, bound: SafeOutbox(str(folder / "safe.sqlite"), bound),
}


def sample(number: int) -> Sample:
    return Sample(number, "lenet", {"requests": number, "ready": True, "latency/p50_s": None, "reason": "é"})


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_stay_in_order_when_it_is_full(kind: str, tmp_path: Path) -> None:
    with closing(KINDS[kind](tmp_path, 3)) as outbox:
        for number in range(10):
            outbox.put(sample(number))
        assert [kept for _, kept in outbox.oldest(100)] == [sample(7), sample(8), sample(9)]
        assert [kept.at_ms for _, kept in outbox.oldest(2)] == [7, 8]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.just("put"), st.integers(1, 4)), max_size=40), st.integers(1, 6))
def test_a_file_and_memory_behave_alike(actions: list[object], bound: int) -> None:
    with closing(FileOutbox(":memory:", bound)) as file:
        memory = MemoryOutbox(bound)
        for number, action in enumerate(actions):
            for outbox in (file, memory):
                if action == "put":
                    outbox.put(sample(number))
                elif rows := outbox.oldest(int(action)):
                    outbox.forget(rows[-1][0])
            assert [s for _, s in file.oldest(99)] == [s for _, s in memory.oldest(99)]
            assert len(memory.oldest(99)) <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_the_connection_goes_up_by_one_and_returns_to_zero_after_255(kind: str, tmp_path: Path) -> None:
    with closing(KINDS[kind](tmp_path, 3)) as outbox:
        assert outbox.bd_seq() == 0
        seen = []
        for _ in range(258):
            seen.append(outbox.bd_seq())
            outbox.use_bd_seq(seen[-1])
        assert seen == [n % 256 for n in range(258)]


def test_a_file_survives_its_process(tmp_path: Path) -> None:
    with closing(FileOutbox(str(tmp_path / "o"), 5)) as outbox:
        outbox.put(sample(1))
        outbox.use_bd_seq(6)
    with closing(FileOutbox(str(tmp_path / "o"), 5)) as outbox:
        assert [kept for _, kept in outbox.oldest(9)] == [sample(1)]
        assert outbox.bd_seq() == 7


def test_rows_that_cannot_be_read_are_passed_over_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "o"
    with closing(FileOutbox(str(path), 5)) as outbox:
        with closing(sqlite3.connect(path)) as database, database:
            database.executemany("INSERT INTO sample(body) VALUES (?)", [(b"{",), ("text",), (b'{"at_ms": 1}',)])
        assert outbox.oldest(9) == []
        outbox.put(sample(4))
        assert [kept.at_ms for _, kept in outbox.oldest(9)] == [4]


@pytest.mark.parametrize("trouble", ["a folder", "no folder", "no database"])
def test_a_file_that_cannot_be_used_falls_back_to_memory_and_says_so(
    trouble: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = {"a folder": tmp_path, "no folder": tmp_path / "none" / "o", "no database": tmp_path / "o"}[trouble]
    if trouble == "no database":
        path.write_bytes(b"not a database" * 100)
    with closing(SafeOutbox(str(path), 5)) as outbox:
        outbox.put(sample(1))
        assert [kept for _, kept in outbox.oldest(9)] == [sample(1)]
    assert sum("kept in memory" in record.getMessage() for record in caplog.records) == 1


def test_a_file_that_breaks_later_falls_back_and_keeps_the_connection_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "o"
    with closing(SafeOutbox(str(path), 5)) as outbox:
        outbox.use_bd_seq(outbox.bd_seq())
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("DROP TABLE sample")
            database.execute("DROP TABLE counter")
        outbox.put(sample(1))
        assert outbox.bd_seq() == 1
        assert len(outbox.oldest(9)) == 1
    assert len(caplog.records) == 1
