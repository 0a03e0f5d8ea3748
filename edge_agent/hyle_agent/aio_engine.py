"""The engine on grpcio's public asyncio server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from hyle_agent.address import Address
from hyle_agent.config import Tls
from hyle_agent.engine import Call, Method, Service
from hyle_agent.errors import ConfigError
from hyle_agent.status import refusal_of

__all__ = ["AioEngine"]


class AioEngine:
    """Serves methods with `grpc.aio`.

    Args:
        services: What is served.
        address: Where; port 0 takes a free one.
        tls: Certificates, None to serve in the clear.
        max_message_bytes: Largest request.
        attach: Adds services of grpcio's own (health, reflection) before the start.
    """

    def __init__(
        self,
        services: Sequence[Service],
        address: Address,
        *,
        tls: Tls | None,
        max_message_bytes: int,
        attach: Callable[[Any], None] = lambda server: None,
    ) -> None:
        self._services = services
        self._address = address
        self._tls = tls
        self._limit = max_message_bytes
        self._attach = attach
        self._server: Any = None

    async def start(self) -> int:
        """Listen and serve; contract: `Engine.start`."""
        options = [
            ("grpc.max_receive_message_length", self._limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        for service in self._services:
            handlers = {name: _handler(method) for name, method in service.methods.items()}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.name, handlers),))
        self._attach(self._server)
        port = self._listen()
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls and finish those in progress; contract: `Engine.stop`."""
        await self._server.stop(grace_s)

    def _listen(self) -> int:
        target = f"{self._address.host}:{self._address.port}"
        try:
            if self._tls is None:
                return int(self._server.add_insecure_port(target))
            return int(self._server.add_secure_port(target, _credentials(self._tls)))
        except RuntimeError as error:
            remedy = "Choose another port with --listen, or stop what uses this one; check the certificates."
            raise ConfigError(f"listen: nothing can listen on {target}.", remedy=remedy) from error


def _credentials(tls: Tls) -> Any:
    certificate, key = _read(tls.certificate, "certificate"), _read(tls.key, "key")
    if not tls.client_ca:
        return grpc.ssl_server_credentials([(key, certificate)])
    authority = _read(tls.client_ca, "client_ca")
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


def _read(path: str, field: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        message = f"tls.{field}: {path} cannot be read: {error.strerror}."
        raise ConfigError(message, remedy="Make it with `hyle agent init`.") from error


def _handler(method: Method) -> Any:
    wrap = _many if method.streams_out else _one
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.streams_in, method.streams_out]
    return make(
        wrap(method),
        request_deserializer=method.request.FromString,
        response_serializer=method.response.SerializeToString,
    )


def _one(method: Method) -> Any:
    async def serve(request: Any, context: Any) -> Any:
        try:
            return await method.handle(request, _call(context))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await _refuse(context, error)

    return serve


def _many(method: Method) -> Any:
    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in method.handle(request, _call(context)):
                yield response
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await _refuse(context, error)

    return serve


async def _refuse(context: Any, error: Exception) -> None:
    refusal = refusal_of(error)
    await context.abort(refusal.code, refusal.message, refusal.trailers)


def _call(context: Any) -> Call:
    left = context.time_remaining()
    return Call(None if left is None else time.monotonic() + left)
