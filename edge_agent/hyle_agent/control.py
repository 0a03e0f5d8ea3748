"""The operator's side: plan, install, activate, roll back, self-test, remove. Knows no gRPC; one call at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyle_bundle.manifest import FileEntry
from hyle_errors import HyleError
from hyle_substrates.driver import DeviceError

from hyle_agent.admission import Admission
from hyle_agent.care import Care
from hyle_agent.errors import ConflictError, NotFoundError, NotReadyError
from hyle_agent.events import Events
from hyle_agent.fallbacks import Fallbacks
from hyle_agent.installation import Installation
from hyle_agent.loading import SlotLoader
from hyle_agent.models import Model, Models, Tested
from hyle_agent.policy import Policy
from hyle_agent.store import Store
from hyle_agent.switch import Switch
from hyle_agent.trials import Trials
from hyle_agent.upload import Uploads

__all__ = ["Controller", "Installed"]


@dataclass(frozen=True, slots=True)
class Installed:
    """Where an install went, and how its self-test came back."""

    model: str
    slot: str
    digest: str
    tested: Tested


class Controller:
    """Changes what is installed and what serves; whatever fails leaves what served before.

    Args:
        store: Owner of the slots.
        loader: Programs slots.
        models: What serves.
        changed: Told after every change, so that health and telemetry can say so.
        policy: How it looks after what serves.
        events: Told what happened.
    """

    def __init__(
        self,
        store: Store,
        loader: SlotLoader,
        models: Models,
        changed: Callable[[], None],
        policy: Policy | None = None,
        events: Events | None = None,
    ) -> None:
        self._policy, self._events = policy or Policy(), events or Events()
        self._store, self._loader, self._models, self._changed = store, loader, models, changed
        self._slots = Switch(store, loader)
        self._installation = Installation(store, loader, self._slots)
        self._admission = Admission(store, loader.trust, self._policy.node)
        self._trials = Trials(store, self._slots, self._events, self._policy)
        fallbacks = Fallbacks(loader.make, self._policy, threads=loader.threads)
        self.care = Care(loader, self._slots, fallbacks, self._trials, self._events, self._policy)
        self.uploads = Uploads(store)

    def plan(self, manifest: bytes, signature: bytes, override: bytes = b"") -> dict[str, FileEntry]:
        """Return the files of a trusted bundle that are not here yet, by digest, and let them be uploaded.

        Raises:
            UntrustedError: No trusted key signed it, or the override.
            ConflictError: It is older than what is installed, would take the way back from a slot on trial, is for
                another kind of device or too large for this one, or the device is lent.
            StoreFullError: They would not fit on the disk.
        """
        admitted = self._loader.admit(manifest, signature)
        model = self._models.find(admitted.manifest.name)
        if not model.state.letter(admitted.digest):
            self._loader.check_lent()
            self._trials.refuse_overwriting(model)
            self._admission.check(model, admitted, override)
            self._loader.check_suits(admitted.manifest, model.loaded.get(model.state.idle))
        return self.uploads.announce(admitted.manifest)

    def install(self, manifest: bytes, signature: bytes, override: bytes = b"") -> Installed:
        """Build the idle slot, program it beside what serves, and run its self-test.

        Raises:
            HyleError: Any step failed; what served still serves, and nothing of the bundle is left.
        """
        self._loader.check_lent()
        admitted = self._loader.admit(manifest, signature)
        model = self._models.find(admitted.manifest.name)
        slot = model.state.letter(admitted.digest)
        if slot:
            return Installed(model.name, slot, admitted.digest, self._slots.ensure(model, slot)[1])
        self._trials.refuse_overwriting(model)
        leave = self._admission.check(model, admitted, override)
        tested = self._installation.install(model, admitted, manifest, signature, leave)
        if leave is not None:
            message = f"version {admitted.manifest.version} was let in by an operator's override"
            self._events.say("override", model.name, message, version=admitted.manifest.version)
        self._models.put(model)
        self._finish()
        return Installed(model.name, model.state.letter(admitted.digest), admitted.digest, tested)

    def activate(self, name: str, digest: str) -> str:
        """Let an installed slot serve: one switch, between two requests.

        Raises:
            NotFoundError: No slot of the model holds `digest`.
            ConflictError: It is older than what serves; that is what `rollback` is for.
        """
        model = self._models.get(name)
        slot = model.state.letter(digest)
        if not slot:
            raise NotFoundError(f"No slot of {name!r} holds {digest[:64]!r}.", remedy="Install that bundle first.")
        active, wanted = model.state.slots.get(model.state.active), model.state.slots[slot]
        if active and wanted.counter < active.counter and not wanted.overridden:
            message = f"Slot {slot} is older than slot {model.state.active}, which serves."
            raise ConflictError(message, remedy="Use `hyle rollback`.")
        fresh = slot != model.state.active
        self._slots.switch(model, slot, reason="", trial=self._trials.wanted)
        model.unloaded = False
        if fresh:
            self._trials.begin(model)
        self._finish()
        return slot

    def rollback(self, name: str) -> tuple[str, str]:
        """Let the slot that served before serve again; returns its letter and version.

        Raises:
            ConflictError: Nothing served before, or its slot was used for another install.
        """
        model = self._models.get(name)
        slot = model.state.previous
        if not slot:
            remedy = "Install and activate the version that you want."
            raise ConflictError(f"Model {name!r} has no previous slot.", remedy=remedy)
        left = model.state.slots[model.state.active]
        reason = f"rolled back from version {left.version} by the operator"
        self._slots.switch(model, slot, reason=reason)
        model.unloaded = False
        self._events.say("rollback", name, reason, slot=slot, version=model.state.slots[slot].version)
        self._finish()
        return slot, model.state.slots[slot].version

    def remove(self, name: str) -> None:
        """Remove both slots of a model and take it out of service.

        Raises:
            StoreError: They cannot be removed; what served still serves.
        """
        model = self._models.get(name)
        self._store.remove(name)
        self._slots.retire(model)
        self._models.drop(name)
        self._finish()

    def unload(self, name: str) -> None:
        """Take a model out of service until it is loaded again or the agent restarts."""
        self._loader.check_lent()
        model = self._models.get(name)
        model.unloaded = True
        self._slots.retire(model)
        model.reason = "unloaded by the operator"
        self._finish()

    def load(self, name: str) -> None:
        """Program the active slot anew and let it serve.

        Raises:
            NotReadyError: No slot is active.
            HyleError: It cannot be loaded; a fallback stands in if there is one, and `reason` says why.
        """
        self._loader.check_lent()
        model = self._models.get(name)
        if not model.state.active:
            raise NotReadyError(f"Model {name!r} has no active slot.", remedy="Activate one first.")
        self._slots.retire(model)
        model.reason, model.unloaded = "being loaded", False
        try:
            self._slots.switch(model, model.state.active, reason="")
        except Exception as error:
            why = error.message if isinstance(error, HyleError) else type(error).__name__
            model.reason = f"could not be loaded: {why}"
            self.care.stand_in(model)
            raise
        finally:
            self._finish()

    def self_test(self, name: str) -> Tested:
        """Run the golden vectors of the active slot, and do what they call for (`hyle_agent.care`).

        Raises:
            NotReadyError: The active slot is not loaded.
            DeviceError: The device did not answer.
        """
        model = self._models.get(name)
        loaded = model.loaded.get(model.state.active)
        if loaded is None:
            why = model.reason or "no slot is active"
            raise NotReadyError(
                f"Model {name!r} is not loaded: {why.rstrip('.')}.", remedy="Activate or load it first."
            )
        try:
            return self.care.examine(model, loaded)
        finally:
            self._finish()

    def look(self, name: str) -> None:
        """Do on schedule what `self_test` does; a slot that is not loaded is tried again.

        Raises:
            HyleError: It still cannot be loaded, or the device did not answer.
        """
        model = self._models.get(name)
        self._store.catch_up()
        if self._loader.lent is not None:
            return
        if model.state.active in model.loaded:
            self.self_test(name)
        elif model.state.active and not model.unloaded:
            try:
                self.care.revive(model)
            finally:
                self._finish()

    def welcome(self) -> None:
        """Measure and test what the device holds after an absence, and let it serve if it is well.

        Raises:
            DeviceError: It is gone again.
        """
        for model in self._models.all():
            for slot, loaded in tuple(model.loaded.items()):
                self._loader.recalibrate(loaded)
                if slot == model.state.active:
                    self.care.examine(model, loaded)
        self._changed()

    def lose(self, fault: str, why: str) -> None:
        """Take in that the device does not answer."""
        for model in self._models.all():
            self.care.lose(model, fault, why)
        self._changed()

    def boot(self) -> None:
        """Let every model's active slot serve, or its other one if that cannot; says so in `reason`."""
        for name, state in self._store.models().items():
            reason = "being loaded" if state.active else "no slot is active"
            self._models.put(Model(name, state, reason=reason))
        for model in self._models.all():
            if model.state.active:
                self._trials.resume(model)
                if model.serving is None:
                    self._slots.start(model)
                if self._loader.given_up:
                    return
                if model.serving is None:
                    self.care.stand_in(model)
        self._finish()

    def stop(self) -> None:
        """Note that the process stops because it was asked to."""
        for model in self._models.all():
            self._trials.stop(model)

    def challenge(self) -> str:
        """Return what an override must name now."""
        return self._store.floors.challenge()

    def _finish(self) -> None:
        try:
            self._loader.refresh()
        except DeviceError as error:
            self._models.fault = error.fault
        self._changed()
