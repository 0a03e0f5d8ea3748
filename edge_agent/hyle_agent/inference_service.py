"""The Open Inference Protocol's calls: thin; what they mean is in `inference`, `models` and `metadata`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from hyle_protos.inference import inference_pb2 as pb
from hyle_substrates.driver import Driver

from hyle_agent import metadata
from hyle_agent.device_thread import DeviceThread
from hyle_agent.engine import Call, Method, Service
from hyle_agent.errors import NotFoundError, NotReadyError, RequestError
from hyle_agent.inference import Job, prepare, respond
from hyle_agent.loading import run_batch
from hyle_agent.models import Models
from hyle_agent.operator_thread import OperatorThread
from hyle_agent.program import Array
from hyle_agent.status import refusal_of

__all__ = ["SERVICE", "InferenceService"]

SERVICE = "inference.GRPCInferenceService"


class InferenceService:
    """Answers about models, and answers of models.

    Args:
        models: What serves.
        device: Owner of the device.
        operator: Runs what changes a model.
    """

    def __init__(self, models: Models, device: DeviceThread, operator: OperatorThread) -> None:
        self._models = models
        self._device = device
        self._operator = operator

    def service(self) -> Service:
        """Return the table of methods."""
        return Service(
            SERVICE,
            {
                "ServerLive": Method(pb.ServerLiveRequest, pb.ServerLiveResponse, self._live),
                "ServerReady": Method(pb.ServerReadyRequest, pb.ServerReadyResponse, self._ready),
                "ModelReady": Method(pb.ModelReadyRequest, pb.ModelReadyResponse, self._model_ready),
                "ServerMetadata": Method(pb.ServerMetadataRequest, pb.ServerMetadataResponse, self._server_metadata),
                "ModelMetadata": Method(pb.ModelMetadataRequest, pb.ModelMetadataResponse, self._model_metadata),
                "ModelInfer": Method(pb.ModelInferRequest, pb.ModelInferResponse, self.infer),
                "ModelStreamInfer": Method(pb.ModelInferRequest, pb.ModelStreamInferResponse, self._stream, True, True),
                "ModelConfig": Method(pb.ModelConfigRequest, pb.ModelConfigResponse, self._model_config),
                "ModelStatistics": Method(pb.ModelStatisticsRequest, pb.ModelStatisticsResponse, self._statistics),
                "RepositoryIndex": Method(pb.RepositoryIndexRequest, pb.RepositoryIndexResponse, self._index),
                "RepositoryModelLoad": Method(
                    pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse, self._load
                ),
                "RepositoryModelUnload": Method(
                    pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse, self._unload
                ),
            },
        )

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """Answer one request, and count it."""
        arrived = time.perf_counter()
        try:
            job = prepare(request, self._models)
            return respond(job, await self._run(job, call, arrived))
        except BaseException:
            self._count_failure(request.model_name, time.perf_counter() - arrived)
            raise

    async def _run(self, job: Job, call: Call, arrived: float) -> dict[str, Array]:
        def work(_: Driver) -> tuple[dict[str, Array], float, float, float]:
            began = time.perf_counter()
            outputs, energy_j = run_batch(job.loaded, job.inputs, job.samples)
            return outputs, energy_j, began, time.perf_counter()

        statistics = job.model.statistics
        future = self._device.submit(work, deadline=call.deadline)
        statistics.waiting += 1
        try:
            outputs, energy_j, began, ended = await asyncio.wrap_future(future)
        finally:
            statistics.waiting -= 1
        statistics.answered(
            latency_s=time.perf_counter() - arrived,
            waited_s=began - arrived,
            computed_s=ended - began,
            samples=job.samples,
            energy_j=energy_j,
        )
        return outputs

    def _count_failure(self, name: str, latency_s: float) -> None:
        try:
            self._models.get(name).statistics.failed(latency_s)
        except NotFoundError:
            return

    async def _stream(
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async for request in requests:
            try:
                yield pb.ModelStreamInferResponse(infer_response=await self.infer(request, call))
            except Exception as error:
                yield pb.ModelStreamInferResponse(
                    error_message=refusal_of(error).message, infer_response=pb.ModelInferResponse(id=request.id)
                )

    async def _live(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, request: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._models.ready)

    async def _model_ready(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        try:
            self._models.serving(request.name, request.version)
        except NotReadyError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _server_metadata(self, request: pb.ServerMetadataRequest, call: Call) -> pb.ServerMetadataResponse:
        return metadata.server()

    async def _model_metadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        return metadata.model(self._models.serving(request.name, request.version)[1])

    async def _model_config(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        return metadata.configuration(self._models.serving(request.name, request.version)[1])

    async def _statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> pb.ModelStatisticsResponse:
        if request.name:
            chosen = [self._models.get(request.name)]
        elif request.version:
            remedy = "Name the model, or leave the version out."
            raise RequestError("version: expected a name with it, got none.", remedy=remedy)
        else:
            chosen = self._models.all()
        return pb.ModelStatisticsResponse(model_stats=[metadata.statistics(model) for model in chosen])

    async def _index(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        rows = [metadata.index(model) for model in self._models.all() if model.serving is not None or not request.ready]
        return pb.RepositoryIndexResponse(models=rows)

    async def _load(self, request: pb.RepositoryModelLoadRequest, call: Call) -> pb.RepositoryModelLoadResponse:
        if request.parameters:
            names = ", ".join(sorted(request.parameters))
            raise RequestError(f"parameters: expected none, got {names}.", remedy="Install a bundle to change a model.")
        await self._operator.run(lambda controller: controller.load(request.model_name))
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: pb.RepositoryModelUnloadRequest, call: Call) -> pb.RepositoryModelUnloadResponse:
        await self._operator.run(lambda controller: controller.unload(request.model_name))
        return pb.RepositoryModelUnloadResponse()
