"""The Open Inference Protocol's calls: thin; what they mean is in `inference`, `models` and `metadata`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from hyle_protos.inference import inference_pb2 as pb

from hyle_agent import metadata
from hyle_agent.answers import Answers
from hyle_agent.batching import Gatherer, Waiting
from hyle_agent.device_thread import DeviceThread
from hyle_agent.engine import Answer, Call, Caller, Method, Service
from hyle_agent.errors import NotFoundError, NotReadyError, RequestError
from hyle_agent.inference import prepare, respond
from hyle_agent.models import Models
from hyle_agent.operator_thread import OperatorThread
from hyle_agent.status import refusal_of

__all__ = ["SERVICE", "InferenceService"]

SERVICE = "inference.GRPCInferenceService"


class InferenceService:
    """Answers about models, and answers of models.

    Args:
        models: What serves.
        device: Owner of the device.
        operator: Runs what changes a model.
        capacity: Requests that may wait for the device.
        largest: Samples in one batch of several requests.
    """

    def __init__(
        self, models: Models, device: DeviceThread, operator: OperatorThread, *, capacity: int, largest: int
    ) -> None:
        self._models = models
        self._operator = operator
        self._gatherer = Gatherer(
            device, capacity=capacity, largest=largest, renew=lambda job: prepare(job.request, models)
        )

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
                "ModelInfer": Method(pb.ModelInferRequest, pb.ModelInferResponse, self.infer, fast=self),
                "ModelStreamInfer": Method(pb.ModelInferRequest, pb.ModelStreamInferResponse, self._stream, True, True),
                "ModelConfig": Method(pb.ModelConfigRequest, pb.ModelConfigResponse, self._model_config),
                "ModelStatistics": Method(pb.ModelStatisticsRequest, pb.ModelStatisticsResponse, self._statistics),
                "RepositoryIndex": Method(pb.RepositoryIndexRequest, pb.RepositoryIndexResponse, self._index),
                "RepositoryModelLoad": Method(
                    pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse, self._load, role="operate"
                ),
                "RepositoryModelUnload": Method(
                    pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse, self._unload, role="operate"
                ),
            },
        )

    @property
    def full(self) -> bool:
        """Whether a whole batch waits; contract: `Fast.full`."""
        return self._gatherer.full

    @property
    def crowded(self) -> bool:
        """Whether the last batch took every core there is; contract: `Fast.crowded`."""
        return self._gatherer.crowded

    def begin(self, request: pb.ModelInferRequest, call: Caller, answer: Answer) -> Waiting:
        """Check a request and let it wait for the next flush; contract: `Fast.begin`."""
        arrived = time.perf_counter()
        try:
            waiting = Waiting(prepare(request, self._models), call.deadline, self._finish, answer, arrived)
            self._gatherer.add(waiting)
        except BaseException:
            self._count_failure(request.model_name, time.perf_counter() - arrived)
            raise
        return waiting

    def flush(self) -> None:
        """Hand what waits to the device; contract: `Fast.flush`."""
        self._gatherer.flush(inline=True)

    def cancel(self, waiting: Waiting) -> None:
        """Forget a request whose caller is gone; contract: `Fast.cancel`."""
        self._gatherer.cancel(waiting)

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> bytes:
        """Answer one request on the event loop; those of one pass of the loop are one batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()

        def settle(data: bytes | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if data is None:
                future.set_exception(error or RuntimeError("neither an answer nor an error"))
            else:
                future.set_result(data)

        def answer(data: bytes | None, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(settle, data, error)

        waiting = self.begin(request, call, answer)
        loop.call_soon(self._gatherer.flush)
        try:
            return await future
        except asyncio.CancelledError:
            self._gatherer.cancel(waiting)
            raise

    @staticmethod
    def _finish(waiting: Waiting, answers: Answers | None, start: int, error: BaseException | None) -> None:
        data = None
        if answers is not None:
            try:
                data = respond(waiting.job, answers, start)
            except BaseException as failure:
                error = failure
        waiting.answer(data, error)

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
                answer = pb.ModelInferResponse.FromString(await self.infer(request, call))
                yield pb.ModelStreamInferResponse(infer_response=answer)
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
        said = [(model, self._models.answers(model)) for model in self._models.all()]
        rows = [metadata.index(model, answers=answers) for model, answers in said if answers or not request.ready]
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
