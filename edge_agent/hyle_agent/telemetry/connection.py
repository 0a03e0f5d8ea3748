"""One MQTT session, driven by the thread that owns it: no thread, no queue and no reconnect of paho's own."""

from __future__ import annotations

import hashlib
import logging
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from hyle_agent.telemetry.config import TelemetryConfig
from hyle_agent.telemetry.edge_node import Message

__all__ = ["BrokerLostError", "Connection"]

_LOG = logging.getLogger("hyle_agent.telemetry")
_CONNECT_S = 5.0
_FAREWELL_S = 2.0
_LONGEST_COMMAND = 65_536


class BrokerLostError(Exception):
    """The session cannot be had or went away; its text says why. Never leaves telemetry."""


class Connection:
    """A session with the broker, from CONNECT to its end.

    Args:
        config: Broker and account.
        will: What the broker says when this session ends without a word.
        connecting: Called when the broker's port was reached, before CONNECT is sent.
        command: Called with the payload of each command; must not raise.
    """

    def __init__(
        self, config: TelemetryConfig, will: Message, connecting: Callable[[], None], command: Callable[[bytes], None]
    ) -> None:
        self._config = config
        self._command = command
        self._connected: ReasonCode | None = None
        self._subscribed: ReasonCode | None = None
        self._unacknowledged: set[int] = set()
        self._client = self._make_client(will, connecting)

    def open(self, command_topic: str) -> None:
        """Connect, and subscribe to commands; bounded by a few seconds.

        Args:
            command_topic: Where commands to this node arrive.

        Raises:
            BrokerLostError: No session.
        """
        try:
            self._client.connect(self._config.host, self._config.port, keepalive=self._config.keepalive_s)
        except (OSError, ValueError) as error:
            raise BrokerLostError(f"{type(error).__name__}: {error}") from error
        self._await_session()
        self._client.subscribe(command_topic, qos=1)
        self._await(lambda: self._subscribed is not None, "no answer to SUBSCRIBE")
        if self._subscribed is not None and self._subscribed.is_failure:
            _LOG.warning("The broker refuses commands on %s; telemetry goes on without rebirth.", command_topic)

    @property
    def idle(self) -> bool:
        """Whether everything published so far has been handed to the network."""
        return not self._client.want_write()

    def publish(self, message: Message) -> int:
        """Send a message.

        Returns:
            Its number, for messages that are acknowledged.

        Raises:
            BrokerLostError: The session is gone.
        """
        info = self._client.publish(message.topic, message.payload, qos=message.qos, retain=False)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise BrokerLostError(mqtt.error_string(info.rc))
        if message.qos:
            self._unacknowledged.add(info.mid)
        return info.mid

    def acknowledged(self, number: int) -> bool:
        """Whether the broker has taken a message of QoS 1, by the number that `publish` gave."""
        return number not in self._unacknowledged

    def turn(self, wake: socket.socket | None, timeout_s: float) -> bool:
        """Wait for the network or for a wake-up, and do what the network wants.

        Args:
            wake: Becomes readable when something else is to be done.
            timeout_s: Longest wait.

        Returns:
            Whether `wake` is readable.

        Raises:
            BrokerLostError: The session is gone.
        """
        connection: Any = self._client.socket()
        if connection is None:
            raise BrokerLostError("the broker closed the connection")
        decrypted = getattr(connection, "pending", lambda: 0)()
        ready = _wait(connection, wake, self._client.want_write(), 0.0 if decrypted else timeout_s)
        code = mqtt.MQTT_ERR_SUCCESS
        if decrypted or ready.get(connection, 0) & selectors.EVENT_READ:
            code = self._client.loop_read()
        if code == mqtt.MQTT_ERR_SUCCESS and ready.get(connection, 0) & selectors.EVENT_WRITE:
            code = self._client.loop_write()
        if code == mqtt.MQTT_ERR_SUCCESS:
            code = self._client.loop_misc()
        if code != mqtt.MQTT_ERR_SUCCESS:
            raise BrokerLostError(mqtt.error_string(code))
        return wake in ready

    def close(self, farewell: Message | None) -> None:
        """Say farewell, await its acknowledgement for a bounded time, and disconnect; never raises.

        Args:
            farewell: The node's death, or None to go without a word, so that the broker tells the will.
        """
        try:
            if farewell is not None:
                number = self.publish(farewell)
                self._await(lambda: self.acknowledged(number), "no answer to NDEATH", _FAREWELL_S)
                self._client.disconnect()
        except (BrokerLostError, OSError, ValueError) as error:
            _LOG.info("Telemetry ended without a clean farewell: %s", error)
        finally:
            connection: Any = self._client.socket()
            if connection is not None:
                connection.close()

    def _make_client(self, will: Message, connecting: Callable[[], None]) -> mqtt.Client:
        config = self._config
        identity = hashlib.sha256(f"{config.group}/{config.node}".encode()).hexdigest()[:16]
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"hyle-{identity}",
            clean_session=True,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_S
        client.will_set(will.topic, will.payload, qos=will.qos, retain=False)
        if config.username is not None:
            client.username_pw_set(config.username, config.password())
        if config.ca_file is not None:
            client.tls_set(ca_certs=config.ca_file)
        client.on_socket_open = lambda *_: connecting()
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self._connected = code

    def _on_subscribe(self, _client: Any, _data: Any, _mid: Any, codes: list[ReasonCode], _properties: Any) -> None:
        self._subscribed = codes[0]

    def _on_publish(self, _client: Any, _data: Any, mid: int, _code: Any, _properties: Any) -> None:
        self._unacknowledged.discard(mid)

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        if len(message.payload) <= _LONGEST_COMMAND:
            self._command(bytes(message.payload))

    def _await_session(self) -> None:
        try:
            self._await(lambda: self._connected is not None, "no answer to CONNECT")
        except BrokerLostError as error:
            refusal = self._connected
            if refusal is None:
                raise
            raise BrokerLostError(f"the broker refused: {refusal}") from error

    def _await(self, done: Callable[[], bool], otherwise: str, seconds: float = _CONNECT_S) -> None:
        until = time.monotonic() + seconds
        while not done():
            if (left := until - time.monotonic()) <= 0:
                raise BrokerLostError(f"{otherwise} within {seconds:g} s")
            self.turn(None, left)


def _wait(connection: socket.socket, wake: socket.socket | None, write: bool, timeout_s: float) -> dict[object, int]:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0))
        if wake is not None:
            selector.register(wake, selectors.EVENT_READ)
        return {key.fileobj: events for key, events in selector.select(timeout_s)}
