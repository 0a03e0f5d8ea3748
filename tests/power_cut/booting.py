"""Boots an agent's store as the agent does, in this process and with the real executor, and says what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from agent_fakes import connect_twin, debris
from hyle_agent.control import Controller
from hyle_agent.device_thread import DeviceThread
from hyle_agent.executor import load
from hyle_agent.loading import SlotLoader
from hyle_agent.models import Models
from hyle_agent.policy import Policy
from hyle_agent.store import Store
from hyle_agent.trust import Trust, read_keys
from story import MODEL, NOTHING, ROWS, WATCH_S, weights

X = np.random.default_rng(5).normal(size=(1, ROWS)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Booted:
    """What serves ("" for nothing), why something does not, what lies about needlessly, the lowest counter allowed."""

    serves: str
    reason: str
    debris: tuple[str, ...]
    floor: int


def boot(store: Path, key: Path) -> Booted:
    """Boot; an answer is asked of what serves, and must be the one of its version.

    Raises:
        HyleError: The agent would not start.
    """
    device = DeviceThread(lambda: connect_twin({"profile": "ideal", "seed": "0"}), capacity=8)
    device.start()
    opened = None
    try:
        opened, models = Store(store), Models()
        loader = SlotLoader(device, load, Trust(read_keys([str(key)]), insecure=False), threads=1)
        Controller(opened, loader, models, lambda: None, Policy(watch_s=WATCH_S)).boot()
        floor = opened.floors.floor(MODEL)
        found = {model.name: model for model in models.all()}
        assert set(found) <= {MODEL}, found
        if MODEL not in found:
            return Booted(NOTHING, "", tuple(debris(store)), floor)
        model = found[MODEL]
        serves = NOTHING
        if model.serving is not None:
            serves = model.serving.manifest.version
            serving = model.serving
            answer = device.call(lambda _: serving.program.run({"x": X}))["y"]
            # Float32 sums of 24 products of a few units: 24 roundings of 6e-8, each of terms below 30.
            np.testing.assert_allclose(answer, np.maximum(X @ weights(int(serves)), 0), rtol=1e-4, atol=1e-4)
            assert model.state.slots[model.state.active].signer, "a bundle that nobody signed serves"
        return Booted(serves, model.reason, tuple(debris(store)), floor)
    finally:
        if opened is not None:
            opened.close()
        device.stop(5.0)
