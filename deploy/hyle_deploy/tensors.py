"""Arrays to and from the Open Inference Protocol's messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyle_errors import CallerError
from hyle_protos.inference import inference_pb2 as oip

from hyle_deploy.failures import AgentError

__all__ = ["Array", "DatatypeError", "datatype_of", "read_response", "write_request"]

Array = np.ndarray[Any, np.dtype[Any]]

_DATATYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_BYTES = "BYTES"
_LENGTH = 4
_NAMES = {np.dtype(code): name for name, code in _DATATYPES.items()}
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


class DatatypeError(CallerError):
    """An array whose element type has no name in the protocol."""


def datatype_of(array: Array) -> str:
    """Return the protocol's word for an array's element type (`FP32`, `INT64`, …).

    Raises:
        DatatypeError: There is none; strings and objects have no place in a request.
    """
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise DatatypeError(
            f"An array of {array.dtype} cannot be sent.", remedy=f"Convert it to one of {', '.join(_DATATYPES)}."
        )
    return name


def write_request(
    model: str, inputs: Mapping[str, Array], *, version: str = "", outputs: Sequence[str] = ()
) -> oip.ModelInferRequest:
    """Build a request with raw contents.

    Args:
        model: Name of the model.
        inputs: One array an input, named like it.
        version: Version that must answer, "" for the one that serves.
        outputs: Wanted outputs, none for all.

    Raises:
        DatatypeError: An array's element type cannot be sent.
    """
    request = oip.ModelInferRequest(model_name=model, model_version=version)
    for name, value in inputs.items():
        array = np.asarray(value)
        datatype = datatype_of(array)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.astype(_DATATYPES[datatype], copy=False).tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def read_response(response: oip.ModelInferResponse) -> dict[str, Array]:
    """Return the outputs of a response by name, each array its own and writable.

    BYTES come as text, bytes in it that are no UTF-8 as surrogates.

    Raises:
        AgentError: Contents, shapes and datatypes do not fit each other.
    """
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        raise _malformed(f"{len(raw)} raw contents for {len(response.outputs)} outputs")
    return {output.name: _array(output, raw[i] if raw else None) for i, output in enumerate(response.outputs)}


def _array(output: oip.ModelInferResponse.InferOutputTensor, raw: bytes | None) -> Array:
    if output.datatype == _BYTES:
        return _text(output, raw)
    code = _DATATYPES.get(output.datatype)
    if code is None:
        raise _malformed(f"output {output.name!r} has datatype {output.datatype!r}, which this client does not know")
    dtype, shape = np.dtype(code), tuple(output.shape)
    count = math.prod(shape)
    if raw is not None:
        if min(shape, default=0) < 0 or len(raw) != count * dtype.itemsize:
            raise _malformed(f"output {output.name!r} has {len(raw)} bytes for shape {shape} of {output.datatype}")
        return np.frombuffer(raw, dtype).reshape(shape).copy()
    values = getattr(output.contents, _CONTENTS.get(output.datatype, ""), ())
    if min(shape, default=0) < 0 or len(values) != count:
        raise _malformed(f"output {output.name!r} has {len(values)} elements for shape {shape}")
    return np.array(values, dtype).reshape(shape)


def _text(output: oip.ModelInferResponse.InferOutputTensor, raw: bytes | None) -> Array:
    shape = tuple(output.shape)
    parts = list(output.contents.bytes_contents) if raw is None else _elements(output.name, raw)
    if min(shape, default=0) < 0 or len(parts) != math.prod(shape):
        raise _malformed(f"output {output.name!r} has {len(parts)} elements for shape {shape}")
    return np.array([part.decode(errors="surrogateescape") for part in parts], dtype=np.str_).reshape(shape)


def _elements(name: str, raw: bytes) -> list[bytes]:
    """Cut raw contents of BYTES: each element has its length before it, four bytes, the lowest first."""
    parts, start = [], 0
    while start < len(raw):
        stop = start + _LENGTH + int.from_bytes(raw[start : start + _LENGTH], "little")
        if start + _LENGTH > len(raw) or stop > len(raw):
            raise _malformed(f"output {name!r} has an element that ends after its contents")
        parts.append(raw[start + _LENGTH : stop])
        start = stop
    return parts


def _malformed(what: str) -> AgentError:
    return AgentError(
        f"The agent's answer is malformed: {what}.", remedy="Update the agent, or report this with its version."
    )
