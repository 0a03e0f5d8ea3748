"""The operator's side: plan, install, activate, roll back, self-test, remove. Knows no gRPC; one call at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyle_bundle.manifest import FileEntry

from hyle_agent.errors import ConflictError, NotFoundError, NotReadyError
from hyle_agent.installation import Installation, refuse_older
from hyle_agent.loading import SlotLoader
from hyle_agent.models import Model, Models, Tested
from hyle_agent.store import Store
from hyle_agent.switch import Switch
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
    """

    def __init__(self, store: Store, loader: SlotLoader, models: Models, changed: Callable[[], None]) -> None:
        self._store = store
        self._loader = loader
        self._models = models
        self._changed = changed
        self._slots = Switch(store, loader)
        self._installation = Installation(store, loader, self._slots)
        self.uploads = Uploads(store)

    def plan(self, manifest: bytes, signature: bytes) -> dict[str, FileEntry]:
        """Return the files of a trusted bundle that are not here yet, by digest, and let them be uploaded.

        Raises:
            UntrustedError: No trusted key signed it.
            ConflictError: It is older than what is installed.
            StoreFullError: They would not fit on the disk.
        """
        admitted = self._loader.admit(manifest, signature)
        refuse_older(self._models.find(admitted.manifest.name), admitted)
        return self.uploads.announce(admitted.manifest)

    def install(self, manifest: bytes, signature: bytes) -> Installed:
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
        refuse_older(model, admitted)
        tested = self._installation.install(model, admitted, manifest, signature)
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
        active = model.state.slots.get(model.state.active)
        if active and model.state.slots[slot].counter < active.counter:
            message = f"Slot {slot} is older than slot {model.state.active}, which serves."
            raise ConflictError(message, remedy="Use `hyle rollback`.")
        self._slots.switch(model, slot, reason="")
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
        self._slots.switch(model, slot, reason=f"rolled back from version {left.version} by the operator")
        self._finish()
        return slot, model.state.slots[slot].version

    def remove(self, name: str) -> None:
        """Take a model out of service and remove both its slots."""
        model = self._models.get(name)
        self._slots.retire(model)
        self._models.drop(name)
        self._store.remove(name)
        self._finish()

    def unload(self, name: str) -> None:
        """Take a model out of service until it is loaded again or the agent restarts."""
        self._loader.check_lent()
        model = self._models.get(name)
        self._slots.retire(model)
        model.reason = "unloaded by the operator"
        self._finish()

    def load(self, name: str) -> None:
        """Program the active slot anew and let it serve.

        Raises:
            NotReadyError: No slot is active.
        """
        self._loader.check_lent()
        model = self._models.get(name)
        if not model.state.active:
            raise NotReadyError(f"Model {name!r} has no active slot.", remedy="Activate one first.")
        self._slots.retire(model)
        model.reason = "being loaded"
        self._slots.switch(model, model.state.active, reason="")
        self._finish()

    def self_test(self, name: str) -> Tested:
        """Run the golden vectors of the active slot; who fails is recalibrated once, then taken out of service.

        Raises:
            NotReadyError: The active slot is not loaded.
        """
        model = self._models.get(name)
        loaded = model.loaded.get(model.state.active)
        if loaded is None:
            why = model.reason or "no slot is active"
            raise NotReadyError(f"Model {name!r} is not loaded: {why}.", remedy="Activate or load it first.")
        tested = self._loader.self_test(loaded)
        if not tested.passed:
            self._loader.recalibrate(loaded)
            tested = self._loader.self_test(loaded)
        model.tested[loaded.digest] = tested
        self._slots.judge(model, loaded, tested)
        self._finish()
        return tested

    def boot(self) -> None:
        """Let every model's active slot serve, or its other one if that cannot; says so in `reason`."""
        for name, state in self._store.models().items():
            reason = "being loaded" if state.active else "no slot is active"
            self._models.put(Model(name, state, reason=reason))
        for model in self._models.all():
            if model.state.active:
                self._slots.start(model)
        self._finish()

    def _finish(self) -> None:
        self._loader.refresh()
        self._changed()
