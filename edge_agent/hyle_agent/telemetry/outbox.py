"""Samples and events that wait for a broker: bounded, oldest dropped first, in a file that survives, or in memory."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal, Protocol, TypeVar

import msgspec

from hyle_agent.telemetry.edge_node import Sample

__all__ = ["BIRTH_DEATH_LENGTH", "FileOutbox", "MemoryOutbox", "Outbox", "SafeOutbox"]

BIRTH_DEATH_LENGTH = 256

_LOG = logging.getLogger("hyle_agent.telemetry")
_Result = TypeVar("_Result")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sample(id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS event(id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Outbox(Protocol):
    """A bounded queue of samples, and the number of the next connection."""

    def put(self, sample: Sample) -> None:
        """Append; when full, the oldest goes."""

    def oldest(self, count: int) -> Sequence[tuple[int, Sample]]:
        """Up to `count` samples with their row numbers, oldest first; they stay."""

    def forget(self, row: int) -> None:
        """Remove all samples up to a row number."""

    def put_event(self, body: bytes) -> None:
        """Append an event as it will be sent; when full, the oldest goes."""

    def oldest_event(self) -> tuple[int, bytes] | None:
        """The oldest event with its row number; it stays."""

    def forget_event(self, row: int) -> None:
        """Remove all events up to a row number: the broker has them."""

    def bd_seq(self) -> int:
        """Number of the next connection, 0 to 255."""

    def use_bd_seq(self, number: int) -> None:
        """Note that a connection used this number."""

    def close(self) -> None:
        """Release the file, if there is one."""


class MemoryOutbox:
    """An outbox that ends with the process.

    Args:
        bound: Most samples kept.
        next_bd_seq: Number of the next connection.
    """

    def __init__(self, bound: int, next_bd_seq: int = 0) -> None:
        self._rows: deque[tuple[int, Sample]] = deque(maxlen=bound)
        self._events: deque[tuple[int, bytes]] = deque(maxlen=bound)
        self._next_row = 1
        self._next_bd_seq = next_bd_seq

    def put(self, sample: Sample) -> None:
        """Append; when full, the oldest goes."""
        self._rows.append((self._next_row, sample))
        self._next_row += 1

    def oldest(self, count: int) -> Sequence[tuple[int, Sample]]:
        """Up to `count` samples with their row numbers, oldest first; they stay."""
        return list(islice(self._rows, count))

    def forget(self, row: int) -> None:
        """Remove all samples up to a row number."""
        while self._rows and self._rows[0][0] <= row:
            self._rows.popleft()

    def put_event(self, body: bytes) -> None:
        """Append an event as it will be sent; when full, the oldest goes."""
        self._events.append((self._next_row, body))
        self._next_row += 1

    def oldest_event(self) -> tuple[int, bytes] | None:
        """The oldest event with its row number; it stays."""
        return self._events[0] if self._events else None

    def forget_event(self, row: int) -> None:
        """Remove all events up to a row number: the broker has them."""
        while self._events and self._events[0][0] <= row:
            self._events.popleft()

    def bd_seq(self) -> int:
        """Number of the next connection, 0 to 255."""
        return self._next_bd_seq

    def use_bd_seq(self, number: int) -> None:
        """Note that a connection used this number."""
        self._next_bd_seq = (number + 1) % BIRTH_DEATH_LENGTH

    def close(self) -> None:
        """Nothing to release."""


class FileOutbox:
    """An outbox in an SQLite file; a row that was put survives kill −9 and power loss.

    Args:
        path: The file; made when absent. One agent owns it, from one thread.
        bound: Most samples kept.

    Raises:
        sqlite3.Error: The file cannot be used; so do all methods.
    """

    def __init__(self, path: str, bound: int) -> None:
        self._bound = bound
        self._database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error:
            self._database.close()
            raise

    def put(self, sample: Sample) -> None:
        """Append; when full, the oldest goes."""
        self._append("sample", msgspec.json.encode(sample))

    def _append(self, table: Literal["sample", "event"], body: bytes) -> None:
        self._database.execute("BEGIN")
        try:
            row = self._database.execute(f"INSERT INTO {table}(body) VALUES (?)", (body,)).lastrowid
            self._database.execute(f"DELETE FROM {table} WHERE id <= ?", ((row or 0) - self._bound,))
            self._database.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise

    def oldest(self, count: int) -> Sequence[tuple[int, Sample]]:
        """Up to `count` samples with their row numbers, oldest first; rows that cannot be read are removed."""
        found = self._database.execute("SELECT id, body FROM sample ORDER BY id LIMIT ?", (count,)).fetchall()
        samples = [(row, sample) for row, body in found if (sample := _decode(body)) is not None]
        if found and not samples:
            self.forget(found[-1][0])
        return samples

    def forget(self, row: int) -> None:
        """Remove all samples up to a row number."""
        self._database.execute("DELETE FROM sample WHERE id <= ?", (row,))

    def put_event(self, body: bytes) -> None:
        """Append an event as it will be sent; when full, the oldest goes."""
        self._append("event", body)

    def oldest_event(self) -> tuple[int, bytes] | None:
        """The oldest event with its row number; it stays."""
        found = self._database.execute("SELECT id, body FROM event ORDER BY id LIMIT 1").fetchone()
        return (int(found[0]), bytes(found[1])) if found else None

    def forget_event(self, row: int) -> None:
        """Remove all events up to a row number: the broker has them."""
        self._database.execute("DELETE FROM event WHERE id <= ?", (row,))

    def bd_seq(self) -> int:
        """Number of the next connection, 0 to 255."""
        found = self._database.execute("SELECT value FROM counter WHERE name = 'bdSeq'").fetchone()
        return int(found[0]) % BIRTH_DEATH_LENGTH if found else 0

    def use_bd_seq(self, number: int) -> None:
        """Note that a connection used this number."""
        following = (number + 1) % BIRTH_DEATH_LENGTH
        self._database.execute("INSERT OR REPLACE INTO counter VALUES ('bdSeq', ?)", (following,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class SafeOutbox:
    """An outbox in a file where one can be had, in memory from the first failure on, which is said once.

    Args:
        path: The file, or None for memory.
        bound: Most samples kept.
    """

    def __init__(self, path: str | None, bound: int) -> None:
        self._path = path
        self._bound = bound
        self._next_bd_seq = 0
        self._outbox: Outbox = MemoryOutbox(bound)
        if path is not None:
            try:
                self._outbox = FileOutbox(path, bound)
            except sqlite3.Error as error:
                self._fall_back(error)

    def put(self, sample: Sample) -> None:
        """Append; when full, the oldest goes."""
        self._do(lambda outbox: outbox.put(sample))

    def oldest(self, count: int) -> Sequence[tuple[int, Sample]]:
        """Up to `count` samples with their row numbers, oldest first; they stay."""
        return self._do(lambda outbox: outbox.oldest(count))

    def forget(self, row: int) -> None:
        """Remove all samples up to a row number."""
        self._do(lambda outbox: outbox.forget(row))

    def put_event(self, body: bytes) -> None:
        """Append an event as it will be sent; when full, the oldest goes."""
        self._do(lambda outbox: outbox.put_event(body))

    def oldest_event(self) -> tuple[int, bytes] | None:
        """The oldest event with its row number; it stays."""
        return self._do(lambda outbox: outbox.oldest_event())

    def forget_event(self, row: int) -> None:
        """Remove all events up to a row number: the broker has them."""
        self._do(lambda outbox: outbox.forget_event(row))

    def bd_seq(self) -> int:
        """Number of the next connection, 0 to 255."""
        self._next_bd_seq = self._do(lambda outbox: outbox.bd_seq())
        return self._next_bd_seq

    def use_bd_seq(self, number: int) -> None:
        """Note that a connection used this number."""
        self._next_bd_seq = (number + 1) % BIRTH_DEATH_LENGTH
        self._do(lambda outbox: outbox.use_bd_seq(number))

    def close(self) -> None:
        """Release the file, if there is one."""
        self._do(lambda outbox: outbox.close())

    def _do(self, action: Callable[[Outbox], _Result]) -> _Result:
        try:
            return action(self._outbox)
        except sqlite3.Error as error:
            self._fall_back(error)
            return action(self._outbox)

    def _fall_back(self, error: sqlite3.Error) -> None:
        _LOG.warning(
            "Telemetry's outbox %s cannot be used (%s); samples are kept in memory, up to %d. "
            "Free the disk, or remove the file if it is damaged, and restart the agent.",
            self._path,
            error,
            self._bound,
        )
        with contextlib.suppress(sqlite3.Error):
            self._outbox.close()
        self._outbox = MemoryOutbox(self._bound, self._next_bd_seq)


def _decode(body: object) -> Sample | None:
    try:
        return msgspec.json.decode(body, type=Sample) if isinstance(body, bytes) else None
    except (msgspec.DecodeError, ValueError):
        return None
