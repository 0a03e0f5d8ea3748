"""An install, from blobs to a proven program in the idle slot; what fails on the way leaves nothing."""

from __future__ import annotations

from hyle_bundle.manifest import Manifest

from hyle_agent.errors import ConflictError
from hyle_agent.loading import Admitted, SlotLoader
from hyle_agent.models import Loaded, Model, Tested
from hyle_agent.slots import SlotRecord
from hyle_agent.store import Store
from hyle_agent.switch import Switch

__all__ = ["Installation", "refuse_older"]


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

    def install(self, model: Model, admitted: Admitted, manifest: bytes, signature: bytes) -> Tested:
        """Build, program and prove the idle slot; afterwards the model's state and programs name it.

        Args:
            model: What is installed of the model; what serves of it goes on serving.
            admitted: The trusted bundle.
            manifest: Its `bundle.json`, byte for byte.
            signature: Its signature, empty for none.

        Raises:
            HyleError: Any step failed; nothing of the bundle is left.
        """
        slot = model.state.idle
        record = SlotRecord(admitted.digest, admitted.manifest.version, admitted.manifest.counter, admitted.signer)
        state = model.state.with_slot(slot, record)
        loaded: Loaded | None = None
        try:
            folder = self._store.build(admitted.digest, admitted.manifest, manifest, signature)
            self._slots.evict(model, slot)
            loaded, tested = self._loader.load(folder, admitted.digest)
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


def refuse_older(model: Model, admitted: Admitted) -> None:
    """Refuse a bundle with a lower counter than a slot has, unless it is that slot's own.

    Raises:
        ConflictError: It is older.
    """
    newest = max((record.counter for record in model.state.slots.values()), default=0)
    known = model.state.letter(admitted.digest)
    if admitted.manifest.counter < newest and not known:
        counter = admitted.manifest.counter
        message = f"{_words(admitted.manifest)} is older than what is installed: counter {counter}, installed {newest}."
        raise ConflictError(message, remedy="Use `hyle rollback`, or compile it anew with a higher counter.")


def _words(manifest: Manifest) -> str:
    return f"{manifest.name} {manifest.version}"
