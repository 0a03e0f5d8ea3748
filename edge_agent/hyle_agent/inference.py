"""The Open Inference Protocol without a transport: a request in, a job for the device, a response out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hyle_bundle.manifest import Manifest, TensorInfo
from hyle_protos.inference import inference_pb2 as pb

from hyle_agent.errors import InternalAnswerError, RequestError
from hyle_agent.models import Loaded, Model, Models
from hyle_agent.program import Array
from hyle_agent.tensors import decode_raw, decode_typed, encode, refused

__all__ = ["Job", "prepare", "respond"]


@dataclass(frozen=True, slots=True)
class Job:
    """A valid request: what is to be run, and what of the answer is wanted."""

    id: str
    model: Model
    loaded: Loaded
    inputs: dict[str, Array]
    wanted: tuple[TensorInfo, ...]
    samples: int


def prepare(request: pb.ModelInferRequest, models: Models) -> Job:
    """Check a request in full and turn its contents into arrays.

    Raises:
        NotFoundError: No such model or version.
        NotReadyError: The model cannot answer now.
        RequestError: Anything else about the request is not as it must be.
    """
    model, loaded = models.serving(request.model_name, request.model_version)
    _check_parameters(request.parameters, "the request")
    manifest = loaded.manifest
    inputs = _inputs(request, manifest)
    samples = _batch(manifest, inputs)
    return Job(request.id, model, loaded, inputs, _wanted(request, manifest), samples)


def respond(job: Job, outputs: Mapping[str, Array]) -> pb.ModelInferResponse:
    """Write the answer.

    Raises:
        InternalAnswerError: The program did not return what its manifest promises.
    """
    manifest = job.loaded.manifest
    response = pb.ModelInferResponse(model_name=manifest.name, model_version=manifest.version, id=job.id)
    response.parameters["substrate"].string_param = job.loaded.substrate
    response.parameters["digest"].string_param = job.loaded.digest
    for info in job.wanted:
        values = outputs.get(info.name)
        if values is None:
            raise InternalAnswerError(f"The program returned no {info.name!r}.", remedy="Compile the bundle again.")
        response.outputs.add(name=info.name, datatype=info.datatype, shape=values.shape)
        response.raw_output_contents.append(encode(values, info.datatype))
    return response


def _inputs(request: pb.ModelInferRequest, manifest: Manifest) -> dict[str, Array]:
    known = {info.name: info for info in manifest.inputs}
    _check_names([tensor.name for tensor in request.inputs], known)
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        message = f"raw_input_contents: expected {len(request.inputs)} entries, one an input, got {len(raw)}."
        raise RequestError(message, remedy="Send one entry for each input, in order.")
    contents = raw or [None] * len(request.inputs)
    pairs = zip(request.inputs, contents, strict=True)
    return {tensor.name: _input(tensor, known[tensor.name], data) for tensor, data in pairs}


def _check_names(got: list[str], known: Mapping[str, TensorInfo]) -> None:
    expected = ", ".join(known)
    for name in got:
        if name not in known:
            raise refused(name, "name", expected, repr(name[:128]))
        if got.count(name) > 1:
            raise refused(name, "name", "each input once", f"it {got.count(name)} times")
    for name in known:
        if name not in got:
            raise refused(name, "name", f"the inputs {expected}", ", ".join(got) or "none")


def _input(tensor: pb.ModelInferRequest.InferInputTensor, info: TensorInfo, raw: bytes | None) -> Array:
    _check_parameters(tensor.parameters, f"input {info.name!r}")
    if tensor.datatype != info.datatype:
        raise refused(info.name, "datatype", info.datatype, repr(tensor.datatype[:32]))
    shape = _shape(tensor, info)
    if raw is not None:
        if tensor.HasField("contents"):
            raise refused(info.name, "contents", "none beside raw_input_contents", "both")
        return decode_raw(info, shape, raw)
    if not tensor.HasField("contents"):
        raise refused(info.name, "contents", "raw_input_contents or typed contents", "neither")
    return decode_typed(info, shape, tensor.contents)


def _shape(tensor: pb.ModelInferRequest.InferInputTensor, info: TensorInfo) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    fits = len(shape) == len(info.shape) and all(want in {-1, got} for want, got in zip(info.shape, shape, strict=True))
    if not fits or any(size < 0 for size in shape):
        raise refused(info.name, "shape", list(info.shape), list(shape[:16]))
    if 0 in shape:
        raise refused(info.name, "shape", "at least one element along each axis", list(shape))
    return shape


def _batch(manifest: Manifest, inputs: Mapping[str, Array]) -> int:
    sizes = {info.name: inputs[info.name].shape[0] for info in manifest.inputs if info.shape and info.shape[0] == -1}
    if len(set(sizes.values())) > 1:
        name = max(sizes, key=lambda key: sizes[key])
        raise refused(name, "shape", "the same number of samples in all inputs", sizes)
    return next(iter(sizes.values()), 1)


def _wanted(request: pb.ModelInferRequest, manifest: Manifest) -> tuple[TensorInfo, ...]:
    known = {info.name: info for info in manifest.outputs}
    names = [output.name for output in request.outputs]
    for output in request.outputs:
        _check_parameters(output.parameters, f"output {output.name[:128]!r}")
        if output.name not in known or names.count(output.name) > 1:
            message = f"Output {output.name[:128]!r}: expected one of {', '.join(known)}, each once."
            raise RequestError(message, remedy="See ModelMetadata for what the model gives.")
    return tuple(known[name] for name in names) if names else manifest.outputs


_UNSUPPORTED = ("classification", "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


def _check_parameters(parameters: Iterable[str], where: str) -> None:
    for name in parameters:
        if name in _UNSUPPORTED:
            message = f"Parameter {name!r} of {where} is not offered here."
            raise RequestError(message, remedy="Leave it out: contents travel in the message, outputs come whole.")
