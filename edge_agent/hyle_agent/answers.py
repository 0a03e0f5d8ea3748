"""Answers on the wire: what is the same in every answer is encoded once, the rest is appended field by field.

Fields of a protobuf message may come in any order, so that a message is the sum of its encoded parts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hyle_bundle.manifest import TensorInfo
from hyle_protos.inference import inference_pb2 as pb

from hyle_agent.datatypes import BYTES
from hyle_agent.errors import InternalAnswerError
from hyle_agent.models import Loaded
from hyle_agent.program import Array
from hyle_agent.tensors import encode

__all__ = ["AnswerHeads", "Answers"]

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


class Answers:
    """The answers to one batch, encoded `ModelInferResponse`s: contents are written once, and cut for each request.

    Args:
        loaded: Who answers.
        heads: Its cache.
        outputs: Arrays by output name, for the whole batch.
        samples: Samples of the batch; 0 for that of one request, whose outputs need not have samples first.
    """

    __slots__ = ("_contents", "_encoded", "_for", "_head", "_heads", "_loaded", "_outputs", "_samples")

    def __init__(self, loaded: Loaded, heads: AnswerHeads, outputs: Mapping[str, Array], samples: int = 0) -> None:
        self._loaded, self._heads, self._outputs, self._samples = loaded, heads, outputs, samples
        self._encoded: dict[str, bytes] = {}
        self._for: tuple[tuple[TensorInfo, ...], int] = ((), -1)
        self._head = b""
        self._contents: list[tuple[bytes, bytes, int]] | None = []

    def encode(self, id_: str, wanted: tuple[TensorInfo, ...], start: int, samples: int) -> bytes:
        """Encode one request's answer.

        Args:
            id_: The request's id.
            wanted: The outputs to tell, in order.
            start: Its first sample in the batch.
            samples: Its samples.

        Raises:
            InternalAnswerError: The program did not return what its manifest promises.
        """
        if self._for != (wanted, samples):
            self._prepare(wanted, samples)
        if self._contents is None:
            own = {info.name: self._outputs[info.name][start : start + samples] for info in wanted}
            return Answers(self._loaded, self._heads, own).encode(id_, wanted, 0, samples)
        parts = [self._head]
        if id_:
            raw = id_.encode()
            parts += (_ID, _varint(len(raw)), raw)
        for before, content, each in self._contents:
            parts.append(before)
            parts.append(content[start * each : (start + samples) * each] if each else content)
        return b"".join(parts)

    def _prepare(self, wanted: tuple[TensorInfo, ...], samples: int) -> None:
        """Encode what answers of one size have in common; outputs whose elements differ in length are not cut."""
        key, contents, cut = [], [], True
        for info in wanted:
            values = self._outputs.get(info.name)
            if values is None or (self._samples and values.shape[:1] != (self._samples,)):
                got = "nothing" if values is None else f"the shape {list(values.shape)}"
                message = f"The program returned {got} for {info.name!r}."
                raise InternalAnswerError(message, remedy="Compile the bundle again.")
            content = self._encoded.get(info.name)
            if content is None:
                content = self._encoded[info.name] = encode(values, info.datatype)
            each, shape = 0, values.shape
            if self._samples:
                cut = cut and info.datatype != BYTES
                each, shape = len(content) // self._samples, (samples, *values.shape[1:])
            contents.append((_RAW + _varint(each * samples or len(content)), content, each))
            key.append((info.name, info.datatype, shape))
        self._head = _head(self._loaded, self._heads, tuple(key))
        self._contents = contents if cut else None
        self._for = (wanted, samples)


def _head(loaded: Loaded, heads: AnswerHeads, key: tuple[Head, ...]) -> bytes:
    second = int(time.monotonic())
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
    head.parameters["calibration_age_s"].int64_param = second - int(loaded.calibrated_s)
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
