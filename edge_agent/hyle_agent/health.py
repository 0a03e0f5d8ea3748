"""grpc.health.v1 and server reflection by grpcio's own messages; health says what ModelReady says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc_health.v1 import health_pb2 as pb
from hyle_protos.pool import POOL

from hyle_agent.engine import Call, Method, Service
from hyle_agent.errors import NotFoundError
from hyle_agent.models import Models

__all__ = ["Health", "reflection_service"]

_HEALTH = pb.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


class Health:
    """Health of the agent (service name ""), of its services, and of each model (its name).

    Args:
        models: What serves.
        services: Full names of the gRPC services; they are as healthy as the agent.
    """

    def __init__(self, models: Models, services: tuple[str, ...]) -> None:
        self._models = models
        self._services = services
        self._serving: dict[str, bool] = {}
        self._changed: asyncio.Event = asyncio.Event()

    def service(self) -> Service:
        """Return the table of methods."""
        messages = (pb.HealthCheckRequest, pb.HealthCheckResponse)
        methods = {
            "Check": Method(*messages, self._check),
            "List": Method(pb.HealthListRequest, pb.HealthListResponse, self._list),
            "Watch": Method(*messages, self._watch, streams_out=True),
        }
        return Service(_HEALTH, methods)

    async def update(self) -> None:
        """Say anew who serves; models that are gone say so."""
        ready = self._models.ready
        names = {model.name: self._models.answers(model) for model in self._models.all()}
        words = {**dict.fromkeys(self._serving, False), **names, **dict.fromkeys(("", *self._services), ready)}
        if words != self._serving:
            self._serving = words
            self._changed.set()
            self._changed = asyncio.Event()

    async def _check(self, request: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        if request.service not in self._serving:
            message = f"There is no service or model {request.service[:128]!r} here."
            raise NotFoundError(message, remedy="Ask for a service by its full name, a model by its own, or for ''.")
        return self._word(request.service)

    async def _list(self, request: pb.HealthListRequest, call: Call) -> pb.HealthListResponse:
        return pb.HealthListResponse(statuses={name: self._word(name) for name in self._serving})

    async def _watch(self, request: pb.HealthCheckRequest, call: Call) -> AsyncIterator[pb.HealthCheckResponse]:
        last: int | None = None
        while True:
            changed = self._changed
            word = self._word(request.service)
            if word.status != last:
                last = word.status
                yield word
            await changed.wait()

    def _word(self, name: str) -> pb.HealthCheckResponse:
        kinds = pb.HealthCheckResponse
        known = self._serving.get(name)
        status = kinds.SERVICE_UNKNOWN if known is None else kinds.SERVING if known else kinds.NOT_SERVING
        return pb.HealthCheckResponse(status=status)


def reflection_service(names: tuple[str, ...]) -> Service:
    """Return grpcio's reflection over our pool of descriptors, loaded at its first call.

    Args:
        names: Full names of the services to tell of.
    """
    from grpc_reflection.v1alpha import reflection_pb2

    for file in (pb.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(file.serialized_pb)
    made: list[Callable[..., AsyncIterator[Any]]] = []

    async def answer(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        if not made:
            from grpc_reflection.v1alpha import reflection

            servicer = reflection.aio.ReflectionServicer((*names, _HEALTH, _REFLECTION), POOL)
            made.append(servicer.ServerReflectionInfo)
        async for response in made[0](requests, None):
            yield response

    messages = (reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse)
    method = Method(*messages, answer, streams_in=True, streams_out=True)
    return Service(_REFLECTION, {"ServerReflectionInfo": method})
