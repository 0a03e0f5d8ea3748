"""The engine on grpcio's public asyncio server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
import grpc.aio

from hyle_agent.address import Address
from hyle_agent.config import Tls
from hyle_agent.engine import Call, Method, Service, parse, serialize
from hyle_agent.errors import NotReadyError
from hyle_agent.listening import cannot_listen, credentials, server_options, target
from hyle_agent.roles import check_role
from hyle_agent.status import refusal_of

__all__ = ["AioEngine"]

# A call past its deadline is cancelled by grpc; a status that is sent meanwhile fails, and grpc.aio never frees the
# memory of a batch that failed (https://github.com/grpc/grpc/issues/43360).
_ENDS_ITSELF_S = 1.0


class AioEngine:
    """Serves methods with `grpc.aio`.

    Args:
        services: What is served.
        address: Where; port 0 takes a free one.
        tls: Certificates, None to serve in the clear.
        max_message_bytes: Largest request.
    """

    def __init__(
        self,
        services: Sequence[Service],
        address: Address,
        *,
        tls: Tls | None,
        max_message_bytes: int,
    ) -> None:
        self._services = services
        self._address = address
        self._tls = tls
        self._limit = max_message_bytes
        self._server: Any = None
        self._calls = _Calls()

    async def start(self) -> int:
        """Listen and serve; contract: `Engine.start`."""
        self._server = grpc.aio.server(options=server_options(self._limit))
        guarded = self._tls is not None and bool(self._tls.client_ca)
        for service in self._services:
            handlers = {name: _handler(method, guarded, self._calls) for name, method in service.methods.items()}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.name, handlers),))
        port = self._listen()
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls and finish those in progress; contract: `Engine.stop`.

        grpc's own stop cancels a call that it had taken but not yet begun; so it comes after those in progress.
        """
        if self._server is None:
            return
        until = time.monotonic() + grace_s
        await self._calls.finish(grace_s)
        await self._server.stop(max(0.0, until - time.monotonic()))

    def _listen(self) -> int:
        where = target(self._address)
        try:
            if self._tls is None:
                return int(self._server.add_insecure_port(where))
            return int(self._server.add_secure_port(where, credentials(self._tls)))
        except RuntimeError as error:
            raise cannot_listen(where) from error


class _Calls:
    """Calls in progress; none begins once they are to be finished."""

    def __init__(self) -> None:
        self._count = 0
        self._finishing = False
        self._idle = asyncio.Event()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count a call while it is in progress.

        Raises:
            NotReadyError: None is taken any more.
        """
        if self._finishing:
            raise NotReadyError("The agent is stopping.", remedy="Ask it again once it is back.")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def finish(self, grace_s: float) -> None:
        """Refuse new ones, and wait so long for those in progress."""
        self._finishing = True
        self._idle.clear()
        if self._count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_s)


def _handler(method: Method, guarded: bool, calls: _Calls) -> Any:
    wrap = _many if method.streams_out else _one
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.streams_in, method.streams_out]
    return make(
        wrap(method, guarded, calls),
        request_deserializer=None,
        response_serializer=serialize,
    )


def _one(method: Method, guarded: bool, calls: _Calls) -> Any:
    async def serve(request: Any, context: Any) -> Any:
        call = _call(context)
        try:
            if guarded:
                check_role(method, context.auth_context())
            with calls.one():
                answer = await method.handle(_parsed(method, request), call)
            await _end_of(call)
            return answer
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await _end_of(call)
            await _refuse(context, error)

    return serve


def _many(method: Method, guarded: bool, calls: _Calls) -> Any:
    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            if guarded:
                check_role(method, context.auth_context())
            with calls.one():
                async for response in method.handle(_parsed(method, request), _call(context)):
                    yield response
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await _refuse(context, error)

    return serve


def _parsed(method: Method, request: Any) -> Any:
    return _each(method, request) if method.streams_in else parse(method, request)


async def _each(method: Method, messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for message in messages:
        yield parse(method, message)


async def _end_of(call: Call) -> None:
    """Let grpc cancel a call whose deadline passed, before anything is sent to it."""
    if call.deadline is not None and time.monotonic() >= call.deadline:
        await asyncio.sleep(_ENDS_ITSELF_S)


async def _refuse(context: Any, error: Exception) -> None:
    refusal = refusal_of(error)
    await context.abort(refusal.code, refusal.message, refusal.trailers)


def _call(context: Any) -> Call:
    left = context.time_remaining()
    return Call(None if left is None else time.monotonic() + left)
