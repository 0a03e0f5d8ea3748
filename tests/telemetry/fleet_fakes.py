"""A state to report, and a host that records what arrives."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import paho.mqtt.client as mqtt
from hyle_agent.snapshot import ModelSnapshot, NodeSnapshot
from sparkplug_wire import WirePayload, decode

PATIENCE_S = 20.0


def model(name: str = "lenet", **changes: object) -> ModelSnapshot:
    base = ModelSnapshot(
        **{"name": name, "version": "1.0", "slot": "a", "digest": "ab" * 32, "ready": True, "reason": ""},
        **{"requests": 5, "errors": 1, "p50_s": 0.001, "p90_s": 0.002, "p99_s": 0.003, "queue_depth": 2},
        **{"self_test_residual": 0.01, "self_test_tolerance": 0.05, "energy_j": 1e-6, "installed_slots": ("a", "b")},
    )
    return dataclasses.replace(base, **changes)


def node(*models: ModelSnapshot, **changes: object) -> NodeSnapshot:
    base = NodeSnapshot(
        **{"node": "edge", "agent_version": "0.1.0", "uptime_s": 1.5, "rss_bytes": 80_000_000, "driver": "twin"},
        **{"profile": "pcm-hermes", "simulated": True, "tiles_used": 3, "tiles": 64, "models": models},
    )
    return dataclasses.replace(base, **changes)


class State:
    """What the agent would say now; still until a test moves it."""

    def __init__(self, *models: ModelSnapshot) -> None:
        self.now = node(*(models or (model(),)))
        self.reads = 0
        self.readable = threading.Event()
        self.readable.set()
        self.moves = False

    def __call__(self) -> NodeSnapshot:
        """Blocks while a test wants nothing to be said."""
        assert self.readable.wait(PATIENCE_S)
        self.reads += 1
        if self.moves:
            self.now = dataclasses.replace(self.now, uptime_s=float(self.reads))
        return self.now

    def moving(self) -> State:
        """From now on uptime goes up, as an agent's does."""
        self.moves = True
        return self

    def request(self) -> None:
        first, *rest = self.now.models
        self.now = dataclasses.replace(
            self.now, models=(dataclasses.replace(first, requests=first.requests + 1), *rest)
        )


@dataclass(frozen=True)
class Received:
    topic: str
    qos: int
    retain: bool
    data: bytes

    @property
    def kind(self) -> str:
        return self.topic.split("/")[2]

    @property
    def payload(self) -> WirePayload:
        return decode(self.data)

    @property
    def bd_seq(self) -> object:
        return self.payload.by_name()["bdSeq"].value


class Host:
    """Subscribes to everything at QoS 1 and keeps it in order."""

    def __init__(self, port: int, topics: str = "spBv1.0/#") -> None:
        self.received: list[Received] = []
        self._ready = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _c, _d, m: self.received.append(
            Received(m.topic, m.qos, m.retain, bytes(m.payload))
        )
        self._client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(PATIENCE_S)

    def of(self, *kinds: str) -> list[Received]:
        return [message for message in self.received if message.kind in kinds]

    def await_count(self, count: int, *kinds: str) -> list[Received]:
        until(lambda: len(self.of(*kinds)) >= count)
        return self.of(*kinds)

    def publish(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1).wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(done: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
