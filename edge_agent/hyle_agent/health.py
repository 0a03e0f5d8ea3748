"""grpc.health.v1 and server reflection, by grpcio's own packages; health says what ModelReady says."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from hyle_protos.pool import POOL

from hyle_agent.models import Models

__all__ = ["Health"]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Health of the agent (service name ""), of its services, and of each model (its name).

    Args:
        models: What serves.
        services: Full names of the gRPC services; they are as healthy as the agent.
    """

    def __init__(self, models: Models, services: tuple[str, ...]) -> None:
        self._models = models
        self._services = services
        self._servicer = health.aio.HealthServicer()
        self._known: set[str] = set()

    def attach(self, server: Any) -> None:
        """Add health and reflection to a `grpc.aio` server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            POOL.AddSerializedFile(file.serialized_pb)
        names = (*self._services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=POOL)

    async def update(self) -> None:
        """Say anew who serves; models that are gone say so."""
        ready = self._models.ready
        names = {model.name: model.serving is not None and not self._models.stopping for model in self._models.all()}
        words = {**dict.fromkeys(self._known, False), **names, **dict.fromkeys(("", *self._services), ready)}
        self._known = set(names)
        for name, serving in words.items():
            await self._servicer.set(name, _SERVING if serving else _NOT_SERVING)
