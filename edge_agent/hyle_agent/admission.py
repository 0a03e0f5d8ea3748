"""Who may be installed: never what is older than what was here, but by an operator's leave, once."""

from __future__ import annotations

import time

from hyle_bundle.override import Override
from hyle_bundle.signature import SignatureError

from hyle_agent.errors import ConflictError, UntrustedError
from hyle_agent.loading import Admitted
from hyle_agent.models import Model
from hyle_agent.store import Store
from hyle_agent.trust import Trust

__all__ = ["Admission"]


class Admission:
    """Anti-rollback by counters; called on the operator's thread only.

    Args:
        store: Knows the floors.
        trust: Whose overrides count.
        node: The agent's name, which an override must name.
    """

    def __init__(self, store: Store, trust: Trust, node: str) -> None:
        self._store, self._trust, self._node = store, trust, node

    def check(self, model: Model, admitted: Admitted, override: bytes) -> Override | None:
        """Refuse a bundle that is older than the model's floor or than what serves.

        Args:
            model: What is installed of the model.
            admitted: The trusted bundle.
            override: An operator's signed leave, empty for none.

        Returns:
            The leave, if it was needed.

        Raises:
            ConflictError: It is older, and there is no override.
            UntrustedError: The override is not for this, or no operator signed it.
        """
        counter = admitted.manifest.counter
        active = model.state.slots.get(model.state.active)
        newest = max(self._store.floors.floor(model.name), active.counter if active else 0)
        if counter >= newest:
            return None
        if not override:
            name = f"{admitted.manifest.name} {admitted.manifest.version}"
            message = f"{name} is older than what is installed: counter {counter}, installed {newest}."
            way = (
                "Use `hyle rollback`, compile it anew with a higher counter, or sign an override with `hyle override`."
            )
            raise ConflictError(message, remedy=way)
        leave, _ = self._trust.override(override)
        try:
            leave.check(model.name, counter, self._node, self._store.floors.challenge(), time.time())
        except SignatureError as error:
            raise UntrustedError(error.message, remedy=error.remedy) from error
        return leave
