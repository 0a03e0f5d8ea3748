"""The thread that reports: connects and reconnects, keeps samples while offline, and dies politely."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from hyle_errors import HyleError

from hyle_agent.events import Event
from hyle_agent.snapshot import NodeSnapshot
from hyle_agent.telemetry.cloud_events import encode_event
from hyle_agent.telemetry.config import TelemetryConfig
from hyle_agent.telemetry.connection import BrokerLostError, Connection
from hyle_agent.telemetry.edge_node import EdgeNode
from hyle_agent.telemetry.outbox import SafeOutbox
from hyle_agent.telemetry.schedule import Schedule, StateReader
from hyle_agent.telemetry.session import LONGEST_TURN_S, RebirthRequests, Session, keep_changes

__all__ = ["Telemetry"]

_LOG = logging.getLogger("hyle_agent.telemetry")
_FIRST_PAUSE_S = 0.2
_STEADY_S = 5.0
_STOP_S = 10.0


class Telemetry:
    """Reports until stopped, from a daemon thread of its own; nothing here ever blocks or fails its caller.

    What was kept while there was no broker is sent once a broker is there, at QoS 0 as the standard demands: a host
    that is not subscribed by then misses it.

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
        self._node = EdgeNode(config.group, config.node)
        self._state = StateReader(snapshot)
        self._schedule = Schedule(config.interval_s)
        self._rebirths = RebirthRequests(config.rebirth_gap_s, on_rebirth)
        self._untold: deque[bytes] = deque(maxlen=config.outbox_rows)
        self._stopping = threading.Event()
        self._online = threading.Event()
        self._said = ""
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="hyle-telemetry", daemon=True)
        self._thread.start()

    @property
    def online(self) -> bool:
        """Whether a broker has this node's births now."""
        return self._online.is_set()

    def notify(self) -> None:
        """Say that something changed and is worth a report now; cheap, from any thread."""
        self._schedule.hasten()
        with contextlib.suppress(OSError):
            self._waker.send(b"!")

    def tell(self, event: Event) -> None:
        """Send an event at least once, now or when there is a broker; from any thread."""
        self._untold.append(encode_event(event, self._config.group, self._config.node))
        self.notify()

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
            self._attempt(functools.partial(self._serve, outbox))
            if self._online.is_set() and time.monotonic() - began > _STEADY_S:
                pause = _FIRST_PAUSE_S
            self._online.clear()
            seconds = pause * random.uniform(0.8, 1.2)
            if not self._attempt(functools.partial(self._stay_offline, outbox, seconds)):
                self._stopping.wait(seconds)
            pause = min(2 * pause, self._config.reconnect_max_s)
        self._keep_untold(outbox)
        outbox.close()

    def _keep_untold(self, outbox: SafeOutbox) -> None:
        """Put events that came in into the outbox, which may survive the process."""
        while self._untold:
            outbox.put_event(self._untold[0])
            self._untold.popleft()

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Do something that may fail in any way, and say why it did; whether it did not."""
        try:
            action()
        except (BrokerLostError, HyleError, OSError) as error:
            self._say_lost(str(error))
            return False
        except Exception as error:
            _LOG.debug("Telemetry met an unexpected error.", exc_info=True)
            self._say_lost(f"unexpected {type(error).__name__}")
            return False
        return True

    def _serve(self, outbox: SafeOutbox) -> None:
        """One connection, to its end."""
        number = outbox.bd_seq()
        death = self._node.death(number)
        connection = Connection(self._config, death, lambda: outbox.use_bd_seq(number), self._rebirths.receive)
        session = Session(connection, number, self._node, self._state, self._schedule, outbox, self._rebirths)
        farewell = None
        try:
            connection.open(self._node.topic("NCMD"))
            self._rebirths.pending = False
            while not self._stopping.is_set() and not session.give_birth():
                self._turn(connection, LONGEST_TURN_S)
            self._say_back()
            while not self._stopping.is_set():
                self._keep_untold(outbox)
                self._turn(connection, session.work())
            farewell = death
        finally:
            connection.close(farewell)

    def _stay_offline(self, outbox: SafeOutbox, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            self._keep_untold(outbox)
            if self._schedule.left() <= 0:
                keep_changes(self._node, self._state, self._schedule, outbox)
            self._drain(max(0.001, min(left, self._schedule.left())))

    def _turn(self, connection: Connection, timeout_s: float) -> None:
        if connection.turn(self._wake, timeout_s):
            self._drain(0.0)

    def _drain(self, timeout_s: float) -> None:
        """Wait for a wake-up, and take it."""
        self._wake.settimeout(timeout_s)
        with contextlib.suppress(OSError):
            self._wake.recv(4096)

    def _say_back(self) -> None:
        self._online.set()
        if self._said:
            _LOG.info("Telemetry is back at %s:%d.", self._config.host, self._config.port)
            self._said = ""

    def _say_lost(self, reason: str) -> None:
        """Say once per outage that the broker is away, and again only when the reason becomes another."""
        if reason != self._said:
            _LOG.warning(
                "Telemetry has no broker at %s:%d (%s). The agent serves on; samples are kept, and it tries again.",
                self._config.host,
                self._config.port,
                reason,
            )
            self._said = reason
