"""One call on the completion queue: either fast, from event to answer on the serving thread, or a coroutine's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc._cython import cygrpc

from hyle_agent.engine import Call, Method, parse, serialize
from hyle_agent.errors import RequestError
from hyle_agent.status import refusal_of

__all__ = ["CoroutineCall", "FastCall", "reject"]

_NO_FLAGS = 0
_NEVER_S = 1e8
_ENDING = threading.Lock()
# Operations that are the same in every answer are one object for all calls: they hold neither metadata nor details, so
# that a batch under way keeps nothing of its own in them; what a close says of the caller is not read after an answer.
_GREETING = cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS)
_ANSWERED = cygrpc.SendStatusFromServerOperation(None, cygrpc.StatusCode.ok, b"", _NO_FLAGS)
_CLOSE = cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS)


def reject(call: Any, code: int, message: str) -> None:
    """End a call that nothing serves."""
    status = cygrpc.SendStatusFromServerOperation(None, code, message.encode(), _NO_FLAGS)
    call.start_server_batch((_GREETING, _CLOSE, status), _ignore)


class FastCall:
    """A unary call to a fast method.

    Args:
        event: Its arrival.
        method: What it asks for.
        fresh: Receives it once it was begun; whoever flushed then lets it `watch`.
        ended: Called back on the serving thread when it is over.

    Attributes:
        deadline: Contract: `Caller.deadline`.
        over: Whether it was answered or its caller is gone; `_ENDING`, one for all calls and held for moments only,
            keeps two threads from ending it twice.
    """

    __slots__ = ("_begun", "_call", "_ended", "_fresh", "_method", "_watching", "deadline", "over")

    def __init__(self, event: Any, method: Method, fresh: list[FastCall], ended: Callable[[Any], None]) -> None:
        call = self._call = event.call
        self._method = method
        self._fresh = fresh
        self._ended = ended
        self.deadline = _deadline(event)
        self._begun: Any = None
        self.over = self._watching = False
        call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def answer(self, data: bytes | None, error: BaseException | None) -> None:
        """Send the answer or the refusal, and end the call; on any thread."""
        with _ENDING:
            if self.over:
                return
            self.over = True
        self._begun = None
        if data is None:
            operations = [_GREETING, _refusal(error)]
        else:
            operations = [_GREETING, cygrpc.SendMessageOperation(data, _NO_FLAGS), _ANSWERED]
        if not self._watching:
            operations.append(_CLOSE)
        self._call.start_server_batch(operations, self._ended)

    def watch(self) -> None:
        """Listen for the caller to go away, if the call was not answered yet."""
        with _ENDING:
            if not self.over:
                self._watching = True
                self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    def _received(self, event: Any) -> None:
        data = event.batch_operations[0].message()
        fast = self._method.fast
        try:
            if data is None or fast is None:
                raise RequestError("The message: expected one, got none.", remedy="Send a request.")
            self._begun = fast.begin(parse(self._method, data), self, self.answer)
        except Exception as error:
            self.answer(None, error)
            return
        self._fresh.append(self)

    def _closed(self, event: Any) -> None:
        if not event.batch_operations[0].cancelled():
            return
        with _ENDING:
            over, self.over = self.over, True
        if not over and self._method.fast is not None:
            self._method.fast.cancel(self._begun)
            self._begun = None
            self._ended(event)


class CoroutineCall:
    """A call that a coroutine answers on the event loop, with any number of messages either way.

    Args:
        event: Its arrival.
        method: What it asks for.
        loop: Where its handler runs.
        ended: Called back on the serving thread when it is over.
    """

    def __init__(
        self, event: Any, method: Method, loop: asyncio.AbstractEventLoop, ended: Callable[[Any], None]
    ) -> None:
        self._call = event.call
        self._method = method
        self._loop = loop
        self._ended = ended
        self._caller = Call(_deadline(event))
        self._task: asyncio.Task[None] | None = None
        self._gone = self._greeted = False
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)
        with contextlib.suppress(RuntimeError):  # the loop was closed: the agent is gone
            loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if not self._gone:
            self._task = self._loop.create_task(self._serve())

    def _closed(self, event: Any) -> None:
        self._ended(event)
        if event.batch_operations[0].cancelled():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        try:
            await self._handle()
            await self._batch(*self._greeting(), _ANSWERED)
        except asyncio.CancelledError:
            return
        except Exception as error:
            await self._batch(*self._greeting(), _refusal(error))

    async def _handle(self) -> None:
        request = self._requests() if self._method.streams_in else await self._only()
        answered = self._method.handle(request, self._caller)
        if not self._method.streams_out:
            await self._send(await answered)
            return
        async with contextlib.aclosing(answered) as responses:
            async for response in responses:
                await self._send(response)

    async def _only(self) -> Any:
        data = await self._receive()
        if data is None:
            raise RequestError("The message: expected one, got none.", remedy="Send a request.")
        return parse(self._method, data)

    async def _requests(self) -> AsyncIterator[Any]:
        while (data := await self._receive()) is not None:
            yield parse(self._method, data)

    async def _receive(self) -> bytes | None:
        event = await self._batch(cygrpc.ReceiveMessageOperation(_NO_FLAGS))
        data: bytes | None = event.batch_operations[0].message()
        return data

    async def _send(self, response: Any) -> None:
        message = cygrpc.SendMessageOperation(serialize(response), _NO_FLAGS)
        event = await self._batch(*self._greeting(), message)
        if not event.success:
            raise asyncio.CancelledError

    def _greeting(self) -> list[Any]:
        if self._greeted:
            return []
        self._greeted = True
        return [_GREETING]

    async def _batch(self, *operations: Any) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()

        def settle(event: Any) -> None:
            if not future.done():
                future.set_result(event)

        def completed(event: Any) -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(settle, event)

        self._call.start_server_batch(operations, completed)
        return await future


def _deadline(event: Any) -> float | None:
    left = event.call_details.deadline - time.time()
    return None if left > _NEVER_S else time.monotonic() + left


def _refusal(error: BaseException | None) -> Any:
    refusal = refusal_of(error or RuntimeError("neither an answer nor an error"))
    details = refusal.message.encode()
    return cygrpc.SendStatusFromServerOperation(refusal.trailers, refusal.code.value[0], details, _NO_FLAGS)


def _ignore(event: Any) -> None:
    """Take the end of a call that needs nothing more."""
