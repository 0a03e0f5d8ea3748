"""Which slot of a model serves: loading it, switching to it in one step, going back, taking it out."""

from __future__ import annotations

import logging
from pathlib import Path

from hyle_agent.loading import SlotLoader
from hyle_agent.models import Loaded, Model, Tested
from hyle_agent.slots import ModelState
from hyle_agent.status import refusal_of
from hyle_agent.store import Store

__all__ = ["Switch"]

_LOG = logging.getLogger(__name__)


class Switch:
    """Loads slots and lets them serve; called on the operator's thread only.

    Args:
        store: Owner of the slots.
        loader: Programs them.
    """

    def __init__(self, store: Store, loader: SlotLoader) -> None:
        self._store = store
        self._loader = loader

    def folder(self, model: Model) -> Path:
        """Return the folder of the active slot's files."""
        return self._store.folder(model.name, model.state.slots[model.state.active].digest)

    def ensure(self, model: Model, slot: str) -> tuple[Loaded, Tested]:
        """Return a slot's program and its last self-test, loading it if it is not loaded.

        Raises:
            HyleError: The slot's files, the device or the self-test is not as it must be.
        """
        digest = model.state.slots[slot].digest
        loaded = model.loaded.get(slot)
        if loaded is None:
            loaded, tested = self._loader.load(self._store.folder(model.name, digest), digest)
            model.loaded[slot] = loaded
            model.tested[digest] = tested
        return loaded, model.tested[digest]

    def switch(self, model: Model, slot: str, *, reason: str, trial: bool = False) -> None:
        """Let a slot serve: on the disk in one step, then for requests in one step.

        Args:
            model: Whose slot.
            slot: Its letter.
            reason: What people are told of it, "" for nothing.
            trial: Whether it is on trial.

        Raises:
            HyleError: The slot cannot be loaded or the state not be written; what served still serves.
        """
        loaded, _ = self.ensure(model, slot)
        state = model.state.with_active(slot, trial=trial)
        if state != model.state:
            self._store.commit(model.name, state)
        self._take_up(model, state, loaded, reason)

    def go_back(self, model: Model, why: str) -> None:
        """Let what served before the trial serve again, and remember why.

        Args:
            model: Whose slot is on trial; it has a previous one.
            why: A sentence for people.

        A disk that cannot be written keeps nobody from it (`Store.hold`).

        Raises:
            HyleError: The old slot cannot be loaded; nothing changed.
        """
        left, state = model.state.active, model.state.back(why)
        loaded, _ = self.ensure(model, state.active)
        self._store.hold(model.name, state)
        self._take_up(model, state, loaded, state.fallen.words() if state.fallen else why)
        self.evict(model, left)

    def start(self, model: Model) -> None:
        """Let the active slot serve, or the other one if it cannot; `reason` says what happened."""
        active, fallen = model.state.active, model.state.fallen
        spare = next((slot for slot in model.state.slots if slot != active), "")
        try:
            self.switch(model, active, reason=fallen.words() if fallen else "")
        except Exception as error:
            if self._loader.given_up:
                return
            version = model.state.slots[active].version
            model.reason = f"slot {active} (version {version}) could not start: {refusal_of(error).message}"
            _LOG.warning("%s: %s", model.name, model.reason)
            if spare:
                self._fall_back(model, spare)

    def stand_in(self, model: Model, loaded: Loaded, reason: str) -> None:
        """Let a fallback serve in the place of the active slot's program, which stays loaded.

        Args:
            model: Whose device cannot answer.
            loaded: The fallback.
            reason: Why, for people.
        """
        model.fallback, model.serving, model.reason = loaded, loaded, reason

    def out(self, model: Model, reason: str) -> None:
        """Take a model out of service; its programs stay loaded."""
        model.serving, model.reason = None, reason

    def back_in(self, model: Model, loaded: Loaded) -> bool:
        """Let the device's own program serve again; whether it did not before."""
        if model.serving is loaded:
            return False
        self._serve(model, loaded, "")
        return True

    def evict(self, model: Model, slot: str) -> None:
        """Close a slot's program, if it has one, and free its tiles."""
        loaded = model.loaded.pop(slot, None)
        if loaded is not None:
            self._loader.unload(loaded)

    def retire(self, model: Model) -> None:
        """Take a model out of service and close its programs."""
        model.serving = None
        self._drop_fallback(model)
        for slot in list(model.loaded):
            self.evict(model, slot)

    def _take_up(self, model: Model, state: ModelState, loaded: Loaded, reason: str) -> None:
        self._serve(model, loaded, reason)
        model.state = state
        _LOG.info("%s %s serves from slot %s", model.name, loaded.manifest.version, state.active)

    def _serve(self, model: Model, loaded: Loaded, reason: str) -> None:
        model.reason, model.serving = reason, loaded
        self._drop_fallback(model)

    def _drop_fallback(self, model: Model) -> None:
        fallback, model.fallback = model.fallback, None
        if fallback is not None:
            self._loader.unload(fallback)

    def _fall_back(self, model: Model, spare: str) -> None:
        why = model.reason
        try:
            loaded, _ = self.ensure(model, spare)
        except Exception as error:
            model.reason = f"{why} Slot {spare} could not start either: {refusal_of(error).message}"
            return
        state = model.state.with_active(spare)
        self._store.hold(model.name, state)
        self._take_up(model, state, loaded, f"{why} Slot {spare} serves instead.")
