"""What the protocol tells about the agent and its models."""

from __future__ import annotations

from typing import cast

from hyle_bundle.manifest import TensorInfo
from hyle_protos.inference import inference_pb2 as pb

from hyle_agent.datatypes import BYTES
from hyle_agent.models import Loaded, Model
from hyle_agent.version import agent_version

__all__ = ["configuration", "index", "model", "server", "statistics"]

PLATFORM = "hyle"
EXTENSIONS = ("model_repository", "model_configuration", "statistics")


def server() -> pb.ServerMetadataResponse:
    """Return the agent's name, version and extensions."""
    return pb.ServerMetadataResponse(name="hyle", version=agent_version(), extensions=EXTENSIONS)


def model(loaded: Loaded) -> pb.ModelMetadataResponse:
    """Return names, datatypes and shapes."""
    manifest = loaded.manifest
    return pb.ModelMetadataResponse(
        name=manifest.name,
        versions=[manifest.version],
        platform=f"{PLATFORM}_{loaded.substrate}",
        inputs=[_tensor(info) for info in manifest.inputs],
        outputs=[_tensor(info) for info in manifest.outputs],
    )


def configuration(loaded: Loaded) -> pb.ModelConfigResponse:
    """Return the same as a model configuration; `max_batch_size` 0 says that shapes are whole."""
    manifest = loaded.manifest
    config = pb.ModelConfig(
        name=manifest.name,
        platform=f"{PLATFORM}_{loaded.substrate}",
        backend=PLATFORM,
        input=[pb.ModelInput(name=i.name, data_type=_data_type(i), dims=i.shape) for i in manifest.inputs],
        output=[pb.ModelOutput(name=o.name, data_type=_data_type(o), dims=o.shape) for o in manifest.outputs],
    )
    return pb.ModelConfigResponse(config=config)


def statistics(model: Model) -> pb.ModelStatistics:
    """Return counts and times since the start."""
    record = model.state.slots.get(model.state.active)
    stats = model.statistics
    answered = stats.latency.count
    return pb.ModelStatistics(
        name=model.name,
        version=record.version if record else "",
        last_inference=int(stats.last_request_s * 1e3),
        inference_count=stats.samples,
        execution_count=stats.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(answered, stats.latency.total_s),
            fail=_duration(stats.errors, stats.failed_s),
            queue=_duration(answered, stats.waited_s),
            compute_infer=_duration(answered, stats.computed_s),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=samples, compute_infer=_duration(count, seconds))
            for samples, count, seconds in stats.sizes()
        ],
    )


def index(model: Model, *, answers: bool) -> pb.RepositoryIndexResponse.ModelIndex:
    """Return a model's line of the repository index."""
    record = model.state.slots.get(model.state.active)
    state = "READY" if answers else "UNAVAILABLE"
    return pb.RepositoryIndexResponse.ModelIndex(
        name=model.name, version=record.version if record else "", state=state, reason=model.reason
    )


def _tensor(info: TensorInfo) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=info.name, datatype=info.datatype, shape=info.shape)


def _data_type(info: TensorInfo) -> pb.DataType:
    name = "STRING" if info.datatype == BYTES else info.datatype
    return cast(pb.DataType, pb.DataType.Value(f"TYPE_{name}"))


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))
