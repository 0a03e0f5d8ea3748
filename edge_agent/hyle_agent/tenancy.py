"""Clearing the device for a lease, and bringing back what served before; on the operator's thread only."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from hyle_substrates.driver import DeviceError

from hyle_agent.errors import ConflictError
from hyle_agent.lease import Lease, Restoration
from hyle_agent.loading import SlotLoader
from hyle_agent.maintenance import MaintenanceConfig
from hyle_agent.models import Model, Models
from hyle_agent.status import refusal_of
from hyle_agent.store import Store
from hyle_agent.switch import Switch
from hyle_agent.tiles import Span

__all__ = ["Tenancy"]

_LOG = logging.getLogger(__name__)


class Tenancy:
    """Takes models off the device and puts them back.

    Args:
        config: How the device is lent.
        store: Owner of the slots.
        loader: Programs them.
        models: What serves.
        changed: Told when that changed.
    """

    def __init__(
        self, config: MaintenanceConfig, store: Store, loader: SlotLoader, models: Models, changed: Callable[[], None]
    ) -> None:
        self._config, self._store, self._loader, self._models = config, store, loader, models
        self._switch = Switch(store, loader)
        self._changed = changed

    def clear(self, lease: Lease, tiles: int) -> None:
        """Give a lease its tiles: free ones, or all of the device, whose models are taken off it.

        Raises:
            ConflictError: The device has not so many.
        """
        owned = self._loader.tiles
        if tiles > owned.tiles:
            message = f"The lease asks for {tiles} tiles; the device has {owned.tiles}."
            raise ConflictError(message, remedy="Compile for fewer tiles, or for a larger device.")
        span = self._free(tiles)
        if span is None:
            span = self._whole(lease)
        lease.span = span
        _LOG.info("lent tiles %d to %d to %s", span.start, span.start + span.count - 1, lease.holder)
        self._changed()

    def restore(self, lease: Lease) -> list[Restoration]:
        """Put back what the lease took off the device; what cannot be put back stays in `lease.replaced`."""
        if lease.span is not None:
            self._loader.tiles.free(lease.span)
            lease.span = None
        self._loader.lent = None
        told = [self._back(lease, name) for name in sorted(lease.replaced)]
        if not lease.replaced and self._models.lease is lease:
            self._models.lease = None
        with contextlib.suppress(DeviceError):
            self._loader.refresh()
        self._changed()
        return told

    def _free(self, tiles: int) -> Span | None:
        if not tiles or not self._config.free_tiles:
            return None
        try:
            return self._loader.tiles.claim(tiles)
        except ConflictError:
            return None

    def _whole(self, lease: Lease) -> Span:
        lease.serving = "twin" if self._config.serve == "twin" else "nothing"
        self._models.lease = lease
        self._loader.lent = lambda: lease.words
        for model in self._models.all():
            held = [s for s, loaded in model.loaded.items() if loaded.span.count or loaded.manifest.boxes]
            if not held:
                continue
            if model.serving is not None or model.state.active in held:
                lease.replaced.add(model.name)
                self._stand_in(model, f"lent for maintenance to {lease.holder}")
            for slot in held:
                self._switch.evict(model, slot)
        return self._loader.tiles.claim(self._loader.tiles.tiles)

    def _stand_in(self, model: Model, why: str) -> None:
        """Let the active slot answer from a twin, if that is wanted and works; a fallback that serves goes on."""
        if model.serving is not None and model.serving is model.fallback:
            return
        if self._config.serve == "twin":
            from hyle_substrates.twin import TwinDriver

            digest = model.state.slots[model.state.active].digest
            twin = TwinDriver(self._loader.described.profile, self._config.twin_seed)
            try:
                loaded = self._loader.load_aside(self._store.folder(model.name, digest), digest, twin)
            except Exception as error:
                _LOG.warning("%s has no twin: %s", model.name, refusal_of(error).message)
            else:
                self._switch.stand_in(model, loaded, f"{why}; its twin answers instead")
                return
        self._switch.out(model, why)

    def _back(self, lease: Lease, name: str) -> Restoration:
        model = self._models.find(name)
        if model.state.active and model in self._models.all() and not model.unloaded:
            try:
                loaded, _ = self._switch.ensure(model, model.state.active)
                self._switch.back_in(model, loaded)
            except Exception as error:
                why = refusal_of(error).message
                model.reason = f"not brought back from maintenance yet: {why}"
                _LOG.warning("%s: %s", name, model.reason)
                return Restoration(name, False, reason=why)
        lease.replaced.discard(name)
        tested = model.last_test
        return Restoration(name, model.serving is not None, tested.residual, tested.tolerance)
