"""The thread that reports: connects, gives birth, sends changes, keeps samples while offline, and dies politely."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import socket
import threading
import time
from collections.abc import Callable

from hyle_errors import HyleError
from hyle_protos.sparkplug.topic import REBIRTH
from hyle_protos.sparkplug.value import parse_payload

from hyle_agent.snapshot import NodeSnapshot
from hyle_agent.telemetry.config import TelemetryConfig
from hyle_agent.telemetry.connection import BrokerLostError, Connection
from hyle_agent.telemetry.edge_node import EdgeNode
from hyle_agent.telemetry.outbox import SafeOutbox

__all__ = ["Telemetry", "asks_for_rebirth"]

_LOG = logging.getLogger("hyle_agent.telemetry")
_FIRST_PAUSE_S = 0.2
_STEADY_S = 5.0
_LONGEST_TURN_S = 1.0
_CHANGE_GAP_S = 0.05
_REPLAY_ROWS = 50
_STOP_S = 10.0


class Telemetry:
    """Reports until stopped, from a daemon thread of its own; nothing here ever blocks or fails its caller.

    Args:
        config: Broker, names, intervals.
        snapshot: Gives the agent's state; called on the telemetry thread, so it must be thread-safe. When it raises,
            that report is left out.
        on_rebirth: Called on the telemetry thread after births that a host asked for.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        snapshot: Callable[[], NodeSnapshot],
        on_rebirth: Callable[[], None] | None = None,
    ) -> None:
        self._config = config
        self._snapshot = snapshot
        self._on_rebirth = on_rebirth
        self._node = EdgeNode(config.group, config.node)
        self._stopping = threading.Event()
        self._online = threading.Event()
        self._changed = True
        self._next_report = self._next_birth = 0.0
        self._rebirth_wanted = False
        self._replayed: int | None = None
        self._said = ""
        self._snapshot_failed = False
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="hyle-telemetry", daemon=True)
        self._thread.start()

    @property
    def online(self) -> bool:
        """Whether a broker has this node's births now."""
        return self._online.is_set()

    def notify(self) -> None:
        """Say that something changed and is worth a report now; cheap, from any thread."""
        self._changed = True
        with contextlib.suppress(OSError):
            self._waker.send(b"!")

    def stop(self) -> None:
        """Publish the node's death, disconnect, and end the thread; bounded by seconds, safe to call twice."""
        self._stopping.set()
        self.notify()
        self._thread.join(_STOP_S)
        if not self._thread.is_alive():
            self._wake.close()
            self._waker.close()

    def _run(self) -> None:
        outbox = SafeOutbox(self._config.outbox, self._config.outbox_rows)
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = time.monotonic()
            self._say_lost(self._attempt(functools.partial(self._serve, outbox)))
            if self._online.is_set() and time.monotonic() - began > _STEADY_S:
                pause = _FIRST_PAUSE_S
            self._online.clear()
            seconds = pause * random.uniform(0.8, 1.2)
            if reason := self._attempt(functools.partial(self._stay_offline, outbox, seconds)):
                self._say_lost(reason)
                self._stopping.wait(seconds)
            pause = min(2 * pause, self._config.reconnect_max_s)
        outbox.close()

    def _attempt(self, action: Callable[[], None]) -> str:
        """Do something that may fail in any way; why it failed, "" when it did not."""
        try:
            action()
        except (BrokerLostError, HyleError, OSError) as error:
            return str(error)
        except Exception as error:
            _LOG.debug("Telemetry met an unexpected error.", exc_info=True)
            return f"unexpected {type(error).__name__}"
        return ""

    def _serve(self, outbox: SafeOutbox) -> None:
        number = outbox.bd_seq()
        death = self._node.death(number)
        connection = Connection(self._config, death, lambda: outbox.use_bd_seq(number), self._command)
        farewell = None
        try:
            connection.open(self._node.topic("NCMD"))
            self._replayed, self._rebirth_wanted = None, False
            while not self._stopping.is_set() and not self._give_birth(connection, number):
                self._turn(connection, _LONGEST_TURN_S)
            while not self._stopping.is_set():
                self._work(connection, outbox, number)
            farewell = death
        finally:
            connection.close(farewell)

    def _work(self, connection: Connection, outbox: SafeOutbox, number: int) -> None:
        if self._rebirth_wanted:
            self._answer_rebirth(connection, number)
        else:
            if self._until_report() <= 0:
                self._report(connection, outbox)
            self._replay(connection, outbox)
        self._turn(connection, self._until_next(connection))

    def _answer_rebirth(self, connection: Connection, number: int) -> None:
        """Births, unless the last asked-for ones were just now; until then no data goes out, as the standard says."""
        if time.monotonic() < self._next_birth:
            return
        self._next_birth = time.monotonic() + max(_CHANGE_GAP_S, self._config.rebirth_gap_s)
        self._rebirth_wanted = not self._give_birth(connection, number)
        if self._on_rebirth is not None and not self._rebirth_wanted:
            try:
                self._on_rebirth()
            except Exception as error:
                _LOG.warning("What was to be done after a rebirth failed (%s).", type(error).__name__)

    def _give_birth(self, connection: Connection, number: int) -> bool:
        self._plan_next()
        if (snapshot := self._take()) is None:
            return False
        for message in self._node.births(snapshot, number, _now_ms()):
            connection.publish(message)
        self._online.set()
        if self._said:
            _LOG.info("Telemetry is back at %s:%d.", self._config.host, self._config.port)
            self._said = ""
        return True

    def _report(self, connection: Connection, outbox: SafeOutbox) -> None:
        """Send what changed; to the outbox while the broker does not drain what was sent before."""
        if not connection.idle:
            self._keep(outbox)
            return
        self._plan_next()
        if (snapshot := self._take()) is not None:
            for message in self._node.changes(snapshot, _now_ms()):
                connection.publish(message)

    def _replay(self, connection: Connection, outbox: SafeOutbox) -> None:
        """Send kept samples; a row is forgotten once the network has taken it."""
        if not connection.idle:
            return
        if self._replayed is not None:
            outbox.forget(self._replayed)
            self._replayed = None
        if rows := outbox.oldest(_REPLAY_ROWS):
            for message in self._node.historical([sample for _, sample in rows], _now_ms()):
                connection.publish(message)
            self._replayed = rows[-1][0]

    def _stay_offline(self, outbox: SafeOutbox, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            if self._until_report() <= 0:
                self._keep(outbox)
            self._wake.settimeout(max(0.001, min(left, self._until_report())))
            with contextlib.suppress(OSError):
                self._wake.recv(4096)

    def _keep(self, outbox: SafeOutbox) -> None:
        self._plan_next()
        if (snapshot := self._take()) is not None:
            for sample in self._node.offline(snapshot, _now_ms()):
                outbox.put(sample)

    def _turn(self, connection: Connection, timeout_s: float) -> None:
        if connection.turn(self._wake, timeout_s):
            self._wake.settimeout(0)
            with contextlib.suppress(OSError):
                self._wake.recv(4096)

    def _until_report(self) -> float:
        """Seconds until the next report: the interval's, or soon after a change."""
        due = self._next_report - (self._config.interval_s - _CHANGE_GAP_S if self._changed else 0.0)
        return due - time.monotonic()

    def _plan_next(self) -> None:
        self._changed = False
        self._next_report = time.monotonic() + self._config.interval_s

    def _until_next(self, connection: Connection) -> float:
        if self._rebirth_wanted:
            return min(_LONGEST_TURN_S, max(0.001, self._next_birth - time.monotonic()))
        if self._replayed is not None and connection.idle:
            return 0.0
        return min(_LONGEST_TURN_S, max(0.0, self._until_report()))

    def _command(self, payload: bytes) -> None:
        if asks_for_rebirth(payload):
            self._rebirth_wanted = True

    def _take(self) -> NodeSnapshot | None:
        try:
            snapshot = self._snapshot()
        except Exception as error:
            if not self._snapshot_failed:
                _LOG.warning(
                    "Telemetry cannot read the agent's state (%s); reports are left out.", type(error).__name__
                )
            self._snapshot_failed = True
            return None
        self._snapshot_failed = False
        return snapshot

    def _say_lost(self, reason: str) -> None:
        """Say once per outage that the broker is away, and again only when the reason becomes another."""
        if reason and reason != self._said:
            _LOG.warning(
                "Telemetry has no broker at %s:%d (%s). The agent serves on; samples are kept, and it tries again.",
                self._config.host,
                self._config.port,
                reason,
            )
            self._said = reason


def asks_for_rebirth(payload: bytes) -> bool:
    """Whether a command's payload, of any origin, is the request for births.

    Args:
        payload: Bytes of the MQTT message; anything that is no Sparkplug payload is no request.
    """
    command = parse_payload(payload)
    return command is not None and any(metric.name == REBIRTH and metric.boolean_value for metric in command.metrics)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
