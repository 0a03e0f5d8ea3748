"""The words of a model's state file: its slots, which one serves, which one is on trial and which one fell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from hyle_agent.errors import StoreError

__all__ = ["SLOTS", "STATE_FORMAT", "Fallen", "ModelState", "SlotRecord", "Trial", "decode_state", "encode_state"]

SLOTS = ("a", "b")
STATE_FORMAT: Literal["hyle-slots/2"] = "hyle-slots/2"

Letter = Literal["a", "b"]


class SlotRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a slot holds: the manifest's SHA-256, its version and counter, and who signed it ("" for nobody).

    `overridden` says that an operator's signed override let it in although it is older than what was there.
    """

    digest: str
    version: str
    counter: int
    signer: str
    overridden: bool = False


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The slot that serves on trial, how often the process died under it, and whether one is running or died now."""

    slot: Letter
    deaths: Annotated[int, msgspec.Meta(ge=0)] = 0
    running: bool = True


class Fallen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that did not pass its trial, and why; for people."""

    version: str
    digest: str
    why: str

    def words(self) -> str:
        """Return the sentence that status and telemetry give."""
        return f"went back from version {self.version} by itself: {self.why}"


class ModelState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model's slots by letter, the letter that serves and the letter that served before, "" for none."""

    active: str = ""
    previous: str = ""
    slots: dict[str, SlotRecord] = {}
    trial: Trial | None = None
    fallen: Fallen | None = None
    format: Literal["hyle-slots/2"] = STATE_FORMAT

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
        return replace(self, previous=previous, slots={**self.slots, letter: record})

    def with_active(self, letter: str, *, trial: bool = False) -> ModelState:
        """Return the state in which `letter` serves, on trial or not; one that serves already stays as it is."""
        if letter == self.active:
            return self
        tried = msgspec.convert({"slot": letter}, Trial) if trial else None
        return replace(self, active=letter, previous=self.active, trial=tried, fallen=None)

    def proven(self) -> ModelState:
        """Return the state in which the trial is over and passed."""
        return replace(self, trial=None)

    def back(self, why: str) -> ModelState:
        """Return the state in which what served before the trial serves again; it has no way forth."""
        left = self.slots[self.active]
        fallen = Fallen(left.version, left.digest, why)
        return replace(self, active=self.previous, previous="", trial=None, fallen=fallen)


class _Header(msgspec.Struct, frozen=True):
    format: str = STATE_FORMAT


def encode_state(state: ModelState) -> bytes:
    """Return the bytes of a state file."""
    return msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"


def decode_state(data: bytes, path: Path) -> ModelState:
    """Read a state file, also one of the format before trials; `path` is for the message.

    Raises:
        StoreError: The bytes are not a state that an agent wrote, or a newer agent wrote them.
    """
    try:
        form = msgspec.json.decode(data, type=_Header).format
        if form != STATE_FORMAT:
            message = f"{path} has the format {form[:64]!r}; this agent reads {STATE_FORMAT!r}."
            raise StoreError(message, remedy="Run the agent that wrote it, or a newer one.")
        state = msgspec.json.decode(data, type=ModelState)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    if not {state.active, state.previous} - {""} <= set(state.slots) <= set(SLOTS):
        raise _damaged(path, "a slot that is none")
    if state.trial and state.trial.slot != state.active:
        raise _damaged(path, "a trial of a slot that does not serve")
    return state


def _damaged(path: Path, why: str) -> StoreError:
    message = f"{path} is not a state that an agent wrote: {why}."
    return StoreError(message, remedy="Move the model's folder away and install the model again.")
