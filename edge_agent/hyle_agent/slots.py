"""The words of a model's state file: which digests are its slots and which one serves."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hyle_agent.errors import StoreError

__all__ = ["SLOTS", "ModelState", "SlotRecord", "decode_state", "encode_state"]

SLOTS = ("a", "b")


class SlotRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a slot holds: the manifest's SHA-256, its version and counter, and who signed it ("" for nobody)."""

    digest: str
    version: str
    counter: int
    signer: str


class ModelState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model's slots by letter, the letter that serves and the letter that served before, "" for none."""

    active: str = ""
    previous: str = ""
    slots: dict[str, SlotRecord] = {}

    @property
    def idle(self) -> str:
        """The letter that an install may write: never the one that serves."""
        return "b" if self.active == "a" else "a"

    def letter(self, digest: str) -> str:
        """Return the slot that holds `digest`, "" when none does."""
        return next((letter for letter, record in self.slots.items() if record.digest == digest), "")

    def with_slot(self, letter: str, record: SlotRecord) -> ModelState:
        """Return the state with `record` in a slot."""
        previous = "" if self.previous == letter else self.previous
        return ModelState(self.active, previous, {**self.slots, letter: record})

    def with_active(self, letter: str) -> ModelState:
        """Return the state in which `letter` serves."""
        previous = self.previous if letter == self.active else self.active
        return ModelState(letter, previous, self.slots)


def encode_state(state: ModelState) -> bytes:
    """Return the bytes of a state file."""
    return msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"


def decode_state(data: bytes, path: Path) -> ModelState:
    """Read a state file; `path` is for the message.

    Raises:
        StoreError: The bytes are not a state that an agent wrote.
    """
    try:
        state = msgspec.json.decode(data, type=ModelState)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    if not {state.active, state.previous} - {""} <= set(state.slots) <= set(SLOTS):
        raise _damaged(path, "a slot that is none")
    return state


def _damaged(path: Path, why: str) -> StoreError:
    message = f"{path} is not a state that an agent wrote: {why}."
    return StoreError(message, remedy="Move the model's folder away and install the model again.")
