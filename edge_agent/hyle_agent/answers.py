"""Answers on the wire: what is the same in every answer is encoded once, the rest is appended field by field.

Fields of a protobuf message may come in any order, so that a message is the sum of its encoded parts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hyle_bundle.manifest import TensorInfo
from hyle_protos.inference import inference_pb2 as pb

from hyle_agent.errors import InternalAnswerError
from hyle_agent.models import Loaded
from hyle_agent.program import Array
from hyle_agent.tensors import encode

__all__ = ["AnswerHeads", "answer"]

_FIELDS = pb.ModelInferResponse.DESCRIPTOR.fields_by_name
_LENGTH_DELIMITED = 2
_ID = bytes([_FIELDS["id"].number << 3 | _LENGTH_DELIMITED])
_RAW = bytes([_FIELDS["raw_output_contents"].number << 3 | _LENGTH_DELIMITED])
_MOST = 64

Head = tuple[str, str, tuple[int, ...]]


@dataclass(slots=True)
class AnswerHeads:
    """Encoded heads of one program's answers, by outputs and shapes; forgotten every second, for the age they tell."""

    second: int = -1
    encoded: dict[tuple[Head, ...], bytes] = field(default_factory=dict)


def answer(
    loaded: Loaded, heads: AnswerHeads, id_: str, wanted: tuple[TensorInfo, ...], outputs: Mapping[str, Array]
) -> bytes:
    """Encode a `ModelInferResponse`.

    Args:
        loaded: Who answers.
        heads: Its cache.
        id_: The request's id.
        wanted: The outputs to tell, in order.
        outputs: Arrays by output name.

    Raises:
        InternalAnswerError: The program did not return what its manifest promises.
    """
    parts = [b""]
    key = []
    if id_:
        raw = id_.encode()
        parts += (_ID, _varint(len(raw)), raw)
    for info in wanted:
        values = outputs.get(info.name)
        if values is None:
            raise InternalAnswerError(f"The program returned no {info.name!r}.", remedy="Compile the bundle again.")
        content = encode(values, info.datatype)
        parts += (_RAW, _varint(len(content)), content)
        key.append((info.name, info.datatype, values.shape))
    parts[0] = _head(loaded, heads, tuple(key))
    return b"".join(parts)


def _head(loaded: Loaded, heads: AnswerHeads, key: tuple[Head, ...]) -> bytes:
    second = int(time.time())
    if second != heads.second or len(heads.encoded) > _MOST:
        heads.second, heads.encoded = second, {}
    found = heads.encoded.get(key)
    if found is None:
        found = heads.encoded[key] = _encode_head(loaded, second, key)
    return found


def _encode_head(loaded: Loaded, second: int, key: tuple[Head, ...]) -> bytes:
    head = pb.ModelInferResponse(model_name=loaded.manifest.name, model_version=loaded.manifest.version)
    head.parameters["substrate"].string_param = loaded.substrate
    head.parameters["digest"].string_param = loaded.digest
    head.parameters["calibration"].string_param = loaded.calibration
    head.parameters["calibration_age_s"].int64_param = max(0, second - int(loaded.calibrated_at))
    for name, datatype, shape in key:
        head.outputs.add(name=name, datatype=datatype, shape=shape)
    return head.SerializeToString(deterministic=True)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
