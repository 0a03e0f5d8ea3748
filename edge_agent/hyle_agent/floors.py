"""What no store forgets: the lowest counter that each model may still be installed with, and the override's challenge.

One file, `floors.json`, replaced in one atomic step. A counter is a floor once its slot has passed its trial; it stays
one when the model is removed. Only an operator's signed override lowers it, and the challenge that it names is
drawn anew in the same step, so that no override works twice.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from hyle_agent import disk
from hyle_agent.errors import StoreError
from hyle_agent.reserve import Reserve

__all__ = ["FLOORS_NAME", "Floors"]

FLOORS_NAME = "floors.json"

Counter = Annotated[int, msgspec.Meta(ge=0)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    challenge: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    floors: dict[str, Counter] = {}
    format: Literal["hyle-floors/1"] = "hyle-floors/1"


class Floors:
    """The floors of one store.

    Args:
        root: The store's folder.
        reserve: Its room for a full disk.

    Raises:
        StoreError: The file is there and no agent wrote it.
    """

    def __init__(self, root: Path, reserve: Reserve) -> None:
        self._reserve = reserve
        self._path = root / FLOORS_NAME
        self._record = self._read() or _Record(secrets.token_hex(16))
        self._written = self._path.is_file()

    def floor(self, model: str) -> int:
        """Return the lowest counter that may be installed, 0 for a model that nobody knows."""
        return self._record.floors.get(model, 0)

    def challenge(self) -> str:
        """Return what an override must name: 32 hexadecimal digits, durable, another after each override.

        Raises:
            StoreError: It cannot be written.
        """
        if not self._written:
            self._write(self._record)
        return self._record.challenge

    def lift(self, model: str, counter: int) -> None:
        """Let a model's floor be at least `counter`.

        Raises:
            StoreError: It cannot be written.
        """
        if counter > self.floor(model):
            self._write(replace(self._record, floors={**self._record.floors, model: counter}))

    def override(self, model: str, counter: int) -> None:
        """Let a model's floor be `counter`, and the challenge another.

        Raises:
            StoreError: It cannot be written.
        """
        floors = {**self._record.floors, model: min(counter, self.floor(model))}
        self._write(_Record(secrets.token_hex(16), floors))

    def _write(self, record: _Record) -> None:
        with disk.explained(self._path.parent):
            self._reserve.replace_file(self._path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        self._record, self._written = record, True

    def _read(self) -> _Record | None:
        if not self._path.is_file():
            return None
        with disk.explained(self._path.parent):
            raw = self._path.read_bytes()
        try:
            return msgspec.json.decode(raw, type=_Record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"{self._path} is not what an agent wrote: {error}."
            remedy = "Restore it from a backup; without it older bundles could be installed again."
            raise StoreError(message, remedy=remedy) from error
