"""An install, from blobs to a proven program in the idle slot; what fails on the way leaves nothing."""

from __future__ import annotations

from hyle_bundle.override import Override
from msgspec.structs import replace

from hyle_agent.loading import Admitted, SlotLoader
from hyle_agent.models import Loaded, Model, Tested
from hyle_agent.slots import SlotRecord
from hyle_agent.store import Store
from hyle_agent.switch import Switch

__all__ = ["Installation"]


class Installation:
    """Installs bundles; called on the operator's thread only.

    Args:
        store: Owner of the slots.
        loader: Programs them.
        slots: Closes what the idle slot held.
    """

    def __init__(self, store: Store, loader: SlotLoader, slots: Switch) -> None:
        self._store = store
        self._loader = loader
        self._slots = slots

    def install(
        self, model: Model, admitted: Admitted, manifest: bytes, signature: bytes, override: Override | None = None
    ) -> Tested:
        """Build, program and prove the idle slot; afterwards the model's state and programs name it.

        Args:
            model: What is installed of the model; what serves of it goes on serving.
            admitted: The trusted bundle.
            manifest: Its `bundle.json`, byte for byte.
            signature: Its signature, empty for none.
            override: An operator's leave that was checked; it is used up right before the slot is.

        Raises:
            HyleError: Any step failed; nothing of the bundle is left.
        """
        slot = model.state.idle
        record = SlotRecord(admitted.digest, admitted.manifest.version, admitted.manifest.counter, admitted.signer)
        record = replace(record, overridden=override is not None)
        state = model.state.with_slot(slot, record)
        loaded: Loaded | None = None
        try:
            folder = self._store.build(admitted.digest, admitted.manifest, manifest, signature)
            self._slots.evict(model, slot)
            loaded, tested = self._loader.load(folder, admitted.digest)
            if override is not None:
                self._store.floors.override(model.name, override.counter)
            self._store.commit(model.name, state)
        except BaseException:
            if loaded is not None:
                self._loader.unload(loaded)
            self._store.abandon(admitted.manifest)
            raise
        model.state = state
        model.loaded[slot] = loaded
        model.tested[admitted.digest] = tested
        model.reason = model.reason or ("" if state.active else "no slot is active")
        return tested
