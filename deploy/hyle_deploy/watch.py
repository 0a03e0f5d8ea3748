"""A host that only looks: subscribes to a fleet's Sparkplug messages and keeps its state."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
from hyle_errors import CallerError
from hyle_protos.sparkplug.event import events_filter
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from hyle_deploy.fleet_events import FleetEvent, read_event
from hyle_deploy.sparkplug import Fleet, rebirth_request

__all__ = ["BrokerAddress", "BrokerUnreachableError", "FleetWatch", "Watched"]

_CONNECT_S = 5.0
_REBIRTH_GAP_S = 5.0
_KEPT_EVENTS = 100


class BrokerUnreachableError(CallerError):
    """There is no broker at the address given, or it refuses this client."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and how to enter.

    Attributes:
        host: Name or address.
        port: TCP port.
        username: Account; none by default.
        password_file: File whose first line is its password.
        ca_file: Certificates (PEM) that the broker's is checked against; given, the connection is TLS.
    """

    host: str
    port: int = 1883
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None

    @classmethod
    def parse(cls, text: str, **account: str | None) -> BrokerAddress:
        """Read `HOST` or `HOST:PORT`, an IPv6 host in brackets.

        Raises:
            CallerError: The text is none of these.
        """
        host, separator, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        if not separator:
            host, port = text, "1883"
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise CallerError(f"{text!r} is no broker address.", remedy="Write it as HOST:PORT.")
        return cls(host.strip("[]"), int(port), **account)

    def password(self) -> str | None:
        """First line of the password file.

        Raises:
            CallerError: It cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return Path(self.password_file).read_text().splitlines()[0]
        except (OSError, UnicodeDecodeError, IndexError) as error:
            raise CallerError(
                f"No password can be read from {self.password_file}.", remedy="Give a file with it on the first line."
            ) from error


@dataclass(frozen=True, slots=True)
class Watched:
    """What a watch has seen at one time.

    Attributes:
        connected: Whether the broker is there now.
        nodes: The fleet, as `Fleet.to_json` gives it.
        messages: Messages received in all.
        refused: Messages that could not be read.
        rebirths: How often nodes were asked for births.
        events: The last that happened, oldest first; each once, by its id.
    """

    connected: bool
    nodes: list[dict[str, object]]
    messages: int
    refused: int
    rebirths: int
    events: tuple[FleetEvent, ...] = ()


class FleetWatch:
    """Watches until closed; reconnects by itself.

    Args:
        address: The broker.
        group: Sparkplug group to watch; all groups by default.
        ask: Ask a node for births when it sends what no birth explains, or when messages are missing; at most once in
            five seconds for each node. Without it nothing is ever sent.

    Raises:
        BrokerUnreachableError: No session within some seconds.
    """

    def __init__(self, address: BrokerAddress, group: str | None = None, *, ask: bool = True) -> None:
        self._fleet = Fleet()
        self._lock = threading.Lock()
        self._ask = ask
        self._asked: dict[tuple[str, str], float] = {}
        self._messages = self._rebirths = 0
        self._events: dict[str, FleetEvent] = {}
        self._changed = threading.Event()
        self._answered = threading.Event()
        self._refusal = "no answer"
        self._filters = [(f"spBv1.0/{group or '+'}/#", 1), (events_filter(group), 1)]
        self._client = self._make_client(address)
        try:
            self._open(address)
        except BaseException:
            self.close()
            raise

    def state(self) -> Watched:
        """The fleet as it is known now."""
        with self._lock:
            nodes = self._fleet.to_json()
            return Watched(
                connected=self._client.is_connected(),
                nodes=nodes,
                messages=self._messages,
                refused=self._fleet.refused,
                rebirths=self._rebirths,
                events=tuple(self._events.values()),
            )

    def wait(self, timeout_s: float) -> bool:
        """Wait for a message; whether one came."""
        came = self._changed.wait(timeout_s)
        self._changed.clear()
        return came

    def close(self) -> None:
        """Disconnect and end the network thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> FleetWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_client(self, address: BrokerAddress) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"hyle-watch-{uuid4().hex[:8]}", protocol=mqtt.MQTTv311
        )
        client.connect_timeout = _CONNECT_S
        client.reconnect_delay_set(1, 15)
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._answered.set()
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        if address.username is not None:
            client.username_pw_set(address.username, address.password())
        if address.ca_file is not None:
            self._use_tls(client, address.ca_file)
        return client

    @staticmethod
    def _use_tls(client: mqtt.Client, ca_file: str) -> None:
        try:
            client.tls_set(ca_certs=ca_file)
        except OSError as error:
            raise CallerError(f"{ca_file} holds no readable certificate.", remedy="Give a PEM file.") from error

    def _open(self, address: BrokerAddress) -> None:
        remedy = "Check the address, the account, and that the broker runs."
        where = f"{address.host}:{address.port}"
        try:
            self._client.connect(address.host, address.port, keepalive=15)
        except OSError as error:
            raise BrokerUnreachableError(f"No MQTT broker answers at {where} ({error}).", remedy=remedy) from error
        self._client.loop_start()
        if not self._answered.wait(_CONNECT_S) or self._refusal:
            raise BrokerUnreachableError(f"The broker at {where} gives no session ({self._refusal}).", remedy=remedy)

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self._refusal = str(code) if code.is_failure else ""
        if code.is_failure:
            self._answered.set()
        else:
            client.subscribe(self._filters)

    def _on_disconnect(self, *_: Any) -> None:
        with self._lock:
            self._fleet.lose_sight()

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            self._messages += 1
            if not message.topic.startswith("spBv1.0/"):
                self._hear(bytes(message.payload))
                self._changed.set()
                return
            unclear = self._fleet.apply(message.topic, bytes(message.payload), time.time())
            if unclear is not None and self._ask and self._may_ask(unclear):
                topic, payload = rebirth_request(*unclear, at_ms=time.time_ns() // 1_000_000)
                client.publish(topic, payload, qos=0, retain=False)
                self._rebirths += 1
        self._changed.set()

    def _hear(self, payload: bytes) -> None:
        event = read_event(payload)
        if event is None:
            return
        self._events[event.id] = event
        while len(self._events) > _KEPT_EVENTS:
            del self._events[next(iter(self._events))]

    def _may_ask(self, node: tuple[str, str]) -> bool:
        now = time.monotonic()
        if now - self._asked.get(node, -_REBIRTH_GAP_S) < _REBIRTH_GAP_S:
            return False
        self._asked[node] = now
        return True
