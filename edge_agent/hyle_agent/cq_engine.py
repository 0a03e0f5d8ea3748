"""The engine on gRPC's completion queue: one thread takes events, runs the fast methods and answers, without hand-off.

`grpc._cython.cygrpc` is grpcio's own layer under its public servers and no public interface: `choice` keeps it to the
releases that were tested, and to machines on which it answers a call of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from grpc._cython import cygrpc

from hyle_agent.address import Address
from hyle_agent.config import Tls
from hyle_agent.cq_calls import CoroutineCall, FastCall, reject
from hyle_agent.cq_reader import AWAY_S, SecondReader
from hyle_agent.engine import Fast, Method, Service
from hyle_agent.errors import ForbiddenError, NotReadyError
from hyle_agent.listening import cannot_listen, credentials, server_options, target
from hyle_agent.polling import polled_here
from hyle_agent.roles import check_role
from hyle_agent.status import refusal_of

__all__ = ["CqEngine"]

_LOG = logging.getLogger(__name__)
_AHEAD = 64
_PAST = 0.0
_TIMEOUT = cygrpc.CompletionType.queue_timeout
_SHUTDOWN = cygrpc.CompletionType.queue_shutdown
_ABANDON_S = 2.0
_AWAKE_S = 50e-6
# Calls of one flush from which a second reader is asked to help; more of them where the program had taken its core.
_COMPANY, _CROWD = 2, 12


class CqEngine:
    """Serves methods from a completion queue.

    Args:
        services: What is served.
        address: Where; port 0 takes a free one.
        tls: Certificates, None to serve in the clear.
        max_message_bytes: Largest request.
    """

    def __init__(
        self, services: Sequence[Service], address: Address, *, tls: Tls | None, max_message_bytes: int
    ) -> None:
        self._methods: dict[str, Method] = {
            f"/{service.name}/{name}": method for service in services for name, method in service.methods.items()
        }
        self._by_wire = {name.encode(): method for name, method in self._methods.items()}
        found = [method.fast for method in self._methods.values() if method.fast is not None]
        self._fast: list[Fast] = list(dict.fromkeys(found))
        self._address = address
        self._tls = tls
        self._guarded = tls is not None and bool(tls.client_ca)
        self._limit = max_message_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh: list[FastCall] = []
        self._stopped = threading.Event()
        self._stopping = False
        self._active = 0
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._main, name="serving", daemon=True)
        self._queue: Any = None
        self._server: Any = None
        self._reader: SecondReader | None = None

    async def start(self) -> int:
        """Listen and serve; contract: `Engine.start`."""
        return self.open(asyncio.get_running_loop())

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls and finish those in progress; contract: `Engine.stop`."""
        await asyncio.to_thread(self.close, grace_s)

    def open(self, loop: asyncio.AbstractEventLoop | None) -> int:
        """Listen and serve; without a loop only fast methods.

        Raises:
            ConfigError: The address cannot be listened on, or the certificates cannot be used.
        """
        self._loop = loop
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(server_options(self._limit)), False)
        self._server.register_completion_queue(self._queue)
        self._reader = SecondReader(self._server) if polled_here() else None
        port = self._listen()
        self._server.start()
        for _ in range(_AHEAD):
            self._server.request_call(self._queue, self._queue, self._called)
        self._thread.start()
        if self._reader is not None:
            self._reader.start()
        return port

    def close(self, grace_s: float) -> None:
        """Refuse new calls, wait up to `grace_s` for those in progress, end them, and end the thread."""
        if self._server is None or not self._thread.is_alive():
            return
        self._stopping = True
        if self._active:
            self._idle.wait(grace_s)
        self._server.shutdown(self._queue, self._shut_down)
        self._server.cancel_all_calls()
        self._stopped.wait(_ABANDON_S)
        self._thread.join(_ABANDON_S if self._stopped.is_set() else 0.0)
        if self._reader is not None:
            self._reader.close()

    def _listen(self) -> int:
        where = target(self._address)
        offered = () if self._tls is None else (credentials(self._tls)._credentials,)
        try:
            port = int(self._server.add_http2_port(where.encode(), *offered))
        except RuntimeError as error:
            raise cannot_listen(where) from error
        if not port:
            raise cannot_listen(where)
        return port

    def _main(self) -> None:
        poll = self._queue.poll
        while True:
            event, begun = self._next(poll), 0
            while (kind := event.completion_type) != _TIMEOUT:
                if kind == _SHUTDOWN:
                    return
                try:
                    event.tag(event)
                except Exception as error:
                    refusal_of(error)  # writes it to the log, without the values that its text may hold
                event = None
                if len(self._fresh) != begun:
                    begun = len(self._fresh)
                    if self._full():
                        break
                event = poll(_PAST)
            if self._fresh:
                self._flush()

    @staticmethod
    def _next(poll: Any) -> Any:
        """The next event; for a moment without sleep, as a caller that was just answered may ask again at once."""
        until = time.perf_counter() + _AWAKE_S
        while (event := poll(_PAST)).completion_type == _TIMEOUT:
            if time.perf_counter() > until:
                return poll()
        return event

    def _full(self) -> bool:
        for fast in self._fast:  # noqa: SIM110 (a generator for each event costs more than all the rest of the loop)
            if fast.full:
                return True
        return False

    def _flush(self) -> None:
        began = time.perf_counter()
        for fast in self._fast:
            try:
                fast.flush()
            except Exception as error:
                refusal_of(error)
        for call in self._fresh:
            if not call.over:
                call.watch()
        if self._reader is not None and len(self._fresh) >= _COMPANY and time.perf_counter() - began > AWAY_S:
            crowded = any(fast.crowded for fast in self._fast)
            if not crowded or len(self._fresh) >= _CROWD:
                self._reader.help()
        self._fresh.clear()

    def _called(self, event: Any) -> None:
        if not event.success or self._server is None:
            return
        try:
            self._server.request_call(self._queue, self._queue, self._called)
        except ValueError:
            return  # the server began to shut down meanwhile
        name = event.call_details.method
        method = self._by_wire.get(name) or self._methods.get(name)
        if method is None:
            asked = name.decode(errors="replace") if isinstance(name, bytes) else name
            reject(event.call, 12, f"There is no method {asked[:128]!r} here.")
        elif self._stopping:
            refusal = refusal_of(NotReadyError("The agent is stopping.", remedy="Ask it again once it is back."))
            reject(event.call, refusal.code.value[0], refusal.message)
        elif self._guarded and (denied := self._denied(event.call, method)) is not None:
            refusal = refusal_of(denied)
            reject(event.call, refusal.code.value[0], refusal.message)
        elif method.fast is not None:
            self._active += 1
            FastCall(event, method, self._fresh, self._ended)
        elif self._loop is not None:
            self._active += 1
            CoroutineCall(event, method, self._loop, self._ended)

    def _denied(self, call: Any, method: Method) -> ForbiddenError | None:
        try:
            known = cygrpc.auth_context(call) or {}
            check_role(method, {name.decode(): values for name, values in known.items()})
        except ForbiddenError as error:
            return error
        return None

    def _ended(self, event: Any) -> None:
        self._active -= 1
        if self._stopping and not self._active:
            self._idle.set()

    def _shut_down(self, event: Any) -> None:
        self._stopped.set()
        self._queue.shutdown()
