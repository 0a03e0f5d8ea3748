"""Which slot of a model serves: loading it, switching to it in one step, falling back, taking it out."""

from __future__ import annotations

import logging

from hyle_agent.loading import SlotLoader
from hyle_agent.models import Loaded, Model, Tested
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

    def switch(self, model: Model, slot: str, *, reason: str) -> None:
        """Let a slot serve: on the disk in one step, then for requests in one step.

        Args:
            model: Whose slot.
            slot: Its letter.
            reason: What people are told of it, "" for nothing.

        Raises:
            HyleError: The slot cannot be loaded or the state not be written; what served still serves.
        """
        loaded, _ = self.ensure(model, slot)
        state = model.state.with_active(slot)
        if state != model.state:
            self._store.commit(model.name, state)
        model.state = state
        model.reason = reason
        model.serving = loaded
        _LOG.info("%s %s serves from slot %s", model.name, loaded.manifest.version, slot)

    def start(self, model: Model) -> None:
        """Let the active slot serve, or the other one if it cannot; `reason` says what happened."""
        active = model.state.active
        spare = next((slot for slot in model.state.slots if slot != active), "")
        try:
            self.switch(model, active, reason="")
        except Exception as error:
            version = model.state.slots[active].version
            model.reason = f"slot {active} (version {version}) could not start: {refusal_of(error).message}"
            _LOG.warning("%s: %s", model.name, model.reason)
            if spare:
                self._fall_back(model, spare)

    def judge(self, model: Model, loaded: Loaded, tested: Tested) -> None:
        """Take a model that failed its self-test out of service, and one that passed back in."""
        if tested.passed:
            if model.serving is None:
                model.serving, model.reason = loaded, ""
            return
        model.serving = None
        _LOG.warning("%s is out of service: its self-test failed", model.name)
        model.reason = f"the self-test's residual is {tested.residual:.3g}, {tested.tolerance:.3g} is allowed"

    def evict(self, model: Model, slot: str) -> None:
        """Close a slot's program, if it has one, and free its tiles."""
        loaded = model.loaded.pop(slot, None)
        if loaded is not None:
            self._loader.unload(loaded)

    def retire(self, model: Model) -> None:
        """Take a model out of service and close its programs."""
        model.serving = None
        for slot in list(model.loaded):
            self.evict(model, slot)

    def _fall_back(self, model: Model, spare: str) -> None:
        why = model.reason
        try:
            self.switch(model, spare, reason=f"{why} Slot {spare} serves instead.")
        except Exception as error:
            model.reason = f"{why} Slot {spare} could not start either: {refusal_of(error).message}"
