"""The Open Inference Protocol without a transport: a request in, a job for the device, an answer out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hyle_bundle.manifest import Manifest, TensorInfo
from hyle_protos.inference import inference_pb2 as pb

from hyle_agent.answers import AnswerHeads, Answers
from hyle_agent.datatypes import datatype
from hyle_agent.errors import RequestError
from hyle_agent.models import Loaded, Model, Models
from hyle_agent.program import Array
from hyle_agent.tensors import decode_raw, decode_typed, refused

# Calibration samples are few: a sound input may exceed them. One that is this many times larger is of another unit.
HEADROOM = 16.0
REMEMBERED = 64
REMEMBERED_BYTES = 512

__all__ = ["Job", "Plan", "answers_of", "arrays_of", "plan_of", "prepare", "respond"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What every request to one program needs of its manifest.

    Attributes:
        inputs: The inputs by name.
        outputs: The outputs by name.
        every: All outputs, in order: what a request gets that names none.
        stackable: Whether several requests' samples can be one batch: samples first, in and out.
        heads: Encoded heads of its answers.
        only: What a plain request looks like, for models that have plain ones.
        limits: Largest magnitude that each input may have on physics: `HEADROOM` times what the converters' ranges were
            made for. Beyond it the DAC would clip nearly everything and the answer would mean nothing.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    every: tuple[TensorInfo, ...]
    stackable: bool
    heads: AnswerHeads
    only: Simple | None
    limits: dict[str, float]


@dataclass(frozen=True, slots=True)
class Simple:
    """What a request to a model with one input of fixed-size numbers looks like when nothing is wrong with it.

    Attributes:
        tail: Shape of one sample.
        sample_bytes: Bytes of one sample.
        limit: Largest magnitude.
        stack: What `Job.stack` is.
        shapes: Shapes that tensors without contents were found to tell, by their encoded form.
    """

    name: str
    datatype: str
    element: np.dtype[Any]
    tail: tuple[int, ...]
    sample_bytes: int
    limit: float
    stack: tuple[tuple[int, ...], ...] | None
    shapes: dict[bytes, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Job:
    """A request whose form is valid: what is to be run, and what of the answer is wanted.

    Attributes:
        inputs: Arrays by name; of a plain request None, and its one input is `raw`, whose values are looked at when it
            is run, together with those of the others in its batch.
        stack: None if it runs alone.
    """

    request: pb.ModelInferRequest
    model: Model
    loaded: Loaded
    inputs: dict[str, Array] | None
    wanted: tuple[TensorInfo, ...]
    samples: int
    stack: tuple[tuple[int, ...], ...] | None
    raw: bytes = b""

    def joins(self, other: Job) -> bool:
        """Whether one execution can answer both."""
        return self.loaded is other.loaded and self.stack is not None and self.stack == other.stack


def prepare(request: pb.ModelInferRequest, models: Models) -> Job:
    """Check a request, all but the values of a plain one, which `arrays_of` looks at.

    Raises:
        NotFoundError: No such model or version.
        NotReadyError: The model cannot answer now.
        RequestError: Anything else about the request is not as it must be.
    """
    model, loaded = models.serving(request.model_name, request.model_version)
    if request.parameters:
        _check_parameters(request.parameters, "the request")
    plan = plan_of(loaded)
    wanted = _wanted(request, plan) if request.outputs else plan.every
    simple = plan.only
    if simple is not None and (samples := _simple_samples(request, simple)):
        return Job(request, model, loaded, None, wanted, samples, simple.stack, request.raw_input_contents[0])
    inputs = _checked_inputs(request, plan)
    samples = _batch(loaded.manifest, inputs)
    stack = tuple(values.shape[1:] for values in inputs.values()) if plan.stackable else None
    return Job(request, model, loaded, inputs, wanted, samples, stack)


def arrays_of(jobs: Sequence[Job]) -> dict[str, Array]:
    """The inputs of jobs that join, one batch; values of plain requests are checked here.

    Raises:
        RequestError: A value cannot be represented; of several jobs' the remedy is to ask for each job's alone.
    """
    first = jobs[0]
    plan = plan_of(first.loaded)
    raws = [job.raw for job in jobs if job.inputs is None]
    if plan.only is not None and len(raws) == len(jobs):
        values = np.frombuffer(raws[0] if len(raws) == 1 else b"".join(raws), plan.only.element)
        if -plan.only.limit <= np.minimum.reduce(values) and np.maximum.reduce(values) <= plan.only.limit:
            return {plan.only.name: values.reshape(-1, *plan.only.tail)}  # NaN is in no range
    parts = [_checked_inputs(job.request, plan) if job.inputs is None else job.inputs for job in jobs]
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def answers_of(jobs: Sequence[Job], outputs: Mapping[str, Array], samples: int) -> Answers:
    """What the outputs of jobs that were one batch of `samples` samples say to each of them."""
    loaded = jobs[0].loaded
    return Answers(loaded, plan_of(loaded).heads, outputs, samples if len(jobs) > 1 else 0)


def respond(job: Job, answers: Answers, start: int = 0) -> bytes:
    """Write a job's answer, an encoded `ModelInferResponse`; `start` is its first sample in its batch.

    Raises:
        InternalAnswerError: The program did not return what its manifest promises.
    """
    return answers.encode(job.request.id, job.wanted, start, job.samples)


def plan_of(loaded: Loaded) -> Plan:
    """Return a program's plan, made at its first request."""
    plan: Plan | None = loaded.plan
    if plan is None:
        manifest = loaded.manifest
        free = all(info.shape[:1] == (-1,) for info in (*manifest.inputs, *manifest.outputs))
        stackable = manifest.stackable and free
        inputs = {info.name: info for info in manifest.inputs}
        outputs = {info.name: info for info in manifest.outputs}
        limits = {name: HEADROOM * most for name, most in manifest.largest_inputs.items() if most and manifest.layers}
        only = _simple(manifest, limits, stackable=stackable)
        plan = loaded.plan = Plan(inputs, outputs, tuple(manifest.outputs), stackable, AnswerHeads(), only, limits)
    return plan


def _simple(manifest: Manifest, limits: Mapping[str, float], *, stackable: bool) -> Simple | None:
    info, *more = manifest.inputs
    kind = datatype(info.datatype)
    if more or info.shape[:1] != (-1,) or -1 in info.shape[1:] or kind.name not in {"FP32", "FP64"}:
        return None
    tail = info.shape[1:]
    limit = limits.get(info.name, float(np.finfo(kind.element).max))
    return Simple(
        info.name,
        info.datatype,
        kind.element,
        tail,
        math.prod(tail) * kind.element.itemsize,
        limit,
        (tail,) if stackable else None,
    )


def _simple_samples(request: pb.ModelInferRequest, only: Simple) -> int:
    """Samples of a plain request whose form is right, else 0; `_checked_inputs` finds what is wrong, and says so."""
    raw, tensors = request.raw_input_contents, request.inputs
    if len(raw) != 1 or len(tensors) != 1:
        return 0
    tensor = tensors[0]
    told = tensor.SerializeToString()
    shape = only.shapes.get(told) or _simple_shape(tensor, told, only)
    return shape[0] if shape is not None and len(raw[0]) == shape[0] * only.sample_bytes else 0


def _simple_shape(tensor: Any, told: bytes, only: Simple) -> tuple[int, ...] | None:
    """Check all that a tensor says of itself; what is as it must be is remembered."""
    if tensor.name != only.name or tensor.datatype != only.datatype or tensor.HasField("contents") or tensor.parameters:
        return None
    shape = tuple(tensor.shape)
    if not shape or shape[0] < 1 or shape[1:] != only.tail:
        return None
    if len(only.shapes) < REMEMBERED and len(told) <= REMEMBERED_BYTES:
        only.shapes[told] = shape
    return shape


def _checked_inputs(request: pb.ModelInferRequest, plan: Plan) -> dict[str, Array]:
    inputs = _inputs(request, plan.inputs)
    _check_magnitudes(inputs, plan.limits)
    return inputs


def _inputs(request: pb.ModelInferRequest, known: Mapping[str, TensorInfo]) -> dict[str, Array]:
    _check_names([tensor.name for tensor in request.inputs], known)
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        message = f"raw_input_contents: expected {len(request.inputs)} entries, one an input, got {len(raw)}."
        raise RequestError(message, remedy="Send one entry for each input, in order.")
    contents = raw or [None] * len(request.inputs)
    pairs = zip(request.inputs, contents, strict=True)
    return {tensor.name: _input(tensor, known[tensor.name], data) for tensor, data in pairs}


def _check_magnitudes(inputs: Mapping[str, Array], limits: Mapping[str, float]) -> None:
    for name, limit in limits.items():
        largest = float(np.abs(inputs[name]).max()) if name in inputs else 0.0
        if largest > limit:
            expected = f"magnitudes that the DAC can represent, up to {limit:.6g}"
            raise refused(name, "value", expected, f"one of {largest:.6g}")


def _check_names(got: list[str], known: Mapping[str, TensorInfo]) -> None:
    if len(got) == len(known) == 1 and got[0] in known:
        return
    for name in got:
        if name not in known:
            raise refused(name, "name", ", ".join(known), repr(name[:128]))
        if got.count(name) > 1:
            raise refused(name, "name", "each input once", f"it {got.count(name)} times")
    for name in known:
        if name not in got:
            raise refused(name, "name", f"the inputs {', '.join(known)}", ", ".join(got) or "none")


def _input(tensor: pb.ModelInferRequest.InferInputTensor, info: TensorInfo, raw: bytes | None) -> Array:
    if tensor.parameters:
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


def _wanted(request: pb.ModelInferRequest, plan: Plan) -> tuple[TensorInfo, ...]:
    known = plan.outputs
    names = [output.name for output in request.outputs]
    for output in request.outputs:
        _check_parameters(output.parameters, f"output {output.name[:128]!r}")
        if output.name not in known or names.count(output.name) > 1:
            message = f"Output {output.name[:128]!r}: expected one of {', '.join(known)}, each once."
            raise RequestError(message, remedy="See ModelMetadata for what the model gives.")
    return tuple(known[name] for name in names)


_UNSUPPORTED = ("classification", "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


def _check_parameters(parameters: Iterable[str], where: str) -> None:
    for name in parameters:
        if name in _UNSUPPORTED:
            message = f"Parameter {name!r} of {where} is not offered here."
            raise RequestError(message, remedy="Leave it out: contents travel in the message, outputs come whole.")
