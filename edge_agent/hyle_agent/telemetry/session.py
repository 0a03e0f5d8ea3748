"""What is said during one connection: births, changes, what was kept, and births again when a host asks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hyle_protos.sparkplug.event import event_topic
from hyle_protos.sparkplug.topic import REBIRTH
from hyle_protos.sparkplug.value import parse_payload

from hyle_agent.telemetry.connection import Connection
from hyle_agent.telemetry.edge_node import EdgeNode, Message
from hyle_agent.telemetry.outbox import Outbox
from hyle_agent.telemetry.schedule import CHANGE_GAP_S, Schedule, StateReader

__all__ = ["RebirthRequests", "Session", "asks_for_rebirth", "keep_changes", "now_ms"]

LONGEST_TURN_S = 1.0
_LOG = logging.getLogger("hyle_agent.telemetry")
_REPLAY_ROWS = 50


class RebirthRequests:
    """Requests for births, answered at most once in a while; those in between are answered by one at its end.

    Args:
        gap_s: Least seconds between two answers.
        answered: Called after each answer; what it raises is said and passed over.
    """

    def __init__(self, gap_s: float, answered: Callable[[], None] | None) -> None:
        self.pending = False
        self._gap_s = max(CHANGE_GAP_S, gap_s)
        self._answered = answered
        self._next = 0.0

    def receive(self, payload: bytes) -> None:
        """Take in a command of any origin."""
        self.pending = self.pending or asks_for_rebirth(payload)

    def left(self) -> float:
        """Seconds until the next answer may be given."""
        return self._next - time.monotonic()

    def answer(self, birth: Callable[[], bool]) -> None:
        """Give birth, and tell who wants to know; a birth that fails is tried again after the gap."""
        self._next = time.monotonic() + self._gap_s
        self.pending = not birth()
        if self._answered is not None and not self.pending:
            try:
                self._answered()
            except Exception as error:
                _LOG.warning("What was to be done after a rebirth failed (%s).", type(error).__name__)


class Session:
    """One connection's talk.

    Args:
        connection: Open.
        number: The connection's birth and death number.
        node: Makes the messages.
        state: What they are made from.
        schedule: When.
        outbox: What was kept while there was no connection.
        rebirths: What hosts asked for.
    """

    def __init__(
        self,
        connection: Connection,
        number: int,
        node: EdgeNode,
        state: StateReader,
        schedule: Schedule,
        outbox: Outbox,
        rebirths: RebirthRequests,
    ) -> None:
        self._connection = connection
        self._number = number
        self._node = node
        self._state = state
        self._schedule = schedule
        self._outbox = outbox
        self._rebirths = rebirths
        self._replayed: int | None = None
        self._telling: tuple[int, int] | None = None

    def give_birth(self) -> bool:
        """Publish all births; False when the state cannot be read now."""
        self._schedule.restart()
        if (snapshot := self._state.read()) is None:
            return False
        for message in self._node.births(snapshot, self._number, now_ms()):
            self._connection.publish(message)
        return True

    def work(self) -> float:
        """Publish what is due.

        Returns:
            Seconds until there may be more to do.
        """
        if self._rebirths.pending:
            return self._answer_rebirth()
        if self._schedule.left() <= 0:
            self._report()
        if self._tell() or self._replay():
            return 0.0
        return min(LONGEST_TURN_S, max(0.0, self._schedule.left()))

    def _answer_rebirth(self) -> float:
        """Births now or soon; until then no data goes out, as the standard says."""
        if self._rebirths.left() <= 0:
            self._rebirths.answer(self.give_birth)
        return min(LONGEST_TURN_S, max(0.0, self._rebirths.left())) if self._rebirths.pending else 0.0

    def _report(self) -> None:
        """Publish what changed; to the outbox while the broker does not drain what was sent before."""
        if not self._connection.idle:
            keep_changes(self._node, self._state, self._schedule, self._outbox)
            return
        self._schedule.restart()
        if (snapshot := self._state.read()) is not None:
            for message in self._node.changes(snapshot, now_ms()):
                self._connection.publish(message)

    def _tell(self) -> bool:
        """Publish the oldest event, one at a time, and forget it once the broker has it; whether to go on at once."""
        if self._telling is not None:
            number, row = self._telling
            if not self._connection.acknowledged(number):
                return False
            self._outbox.forget_event(row)
            self._telling = None
        waiting = self._outbox.oldest_event()
        if waiting is None or not self._connection.idle:
            return False
        row, body = waiting
        topic = event_topic(self._node.group, self._node.node)
        self._telling = self._connection.publish(Message(topic, body, qos=1)), row
        return False

    def _replay(self) -> bool:
        """Publish some of what was kept, and forget it once the network has taken it; whether to go on at once."""
        if not self._connection.idle:
            return False
        if self._replayed is not None:
            self._outbox.forget(self._replayed)
            self._replayed = None
        if rows := self._outbox.oldest(_REPLAY_ROWS):
            for message in self._node.historical([sample for _, sample in rows], now_ms()):
                self._connection.publish(message)
            self._replayed = rows[-1][0]
        return self._replayed is not None and self._connection.idle


def keep_changes(node: EdgeNode, state: StateReader, schedule: Schedule, outbox: Outbox) -> None:
    """Put what changed into the outbox, for later."""
    schedule.restart()
    if (snapshot := state.read()) is not None:
        for sample in node.offline(snapshot, now_ms()):
            outbox.put(sample)


def asks_for_rebirth(payload: bytes) -> bool:
    """Whether a command's payload, of any origin, is the request for births.

    Args:
        payload: Bytes of the MQTT message; anything that is no Sparkplug payload is no request.
    """
    command = parse_payload(payload)
    return command is not None and any(metric.name == REBIRTH and metric.boolean_value for metric in command.metrics)


def now_ms() -> int:
    """Now, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
