"""Does the completion-queue engine work with this grpcio, on this machine? It answers one call to know."""

from __future__ import annotations

from typing import Any

import grpc
from hyle_protos.inference import inference_pb2 as pb

from hyle_agent.address import Address
from hyle_agent.cq_engine import CqEngine
from hyle_agent.engine import Answer, Call, Caller, Method, Service
from hyle_agent.errors import NotReadyError

__all__ = ["answers"]

_PATH = "hyle.SelfTest"
_SECONDS = 5.0
_MESSAGE_BYTES = 1 << 16


class _Echo:
    """Answers a request's id with itself, at the flush."""

    def __init__(self) -> None:
        self._begun: list[tuple[bytes, Answer]] = []
        self.full = self.crowded = False

    def begin(self, request: Any, call: Caller, answer: Answer) -> None:
        self._begun.append((pb.ModelInferResponse(id=request.id).SerializeToString(), answer))

    def flush(self) -> None:
        while self._begun:
            data, answer = self._begun.pop()
            answer(data, None)

    def cancel(self, begun: Any) -> None:
        return


def answers() -> None:
    """Serve an echo on loopback and ask it.

    Raises:
        Exception: Anything about it does not work.
    """
    echo = _Echo()
    method = Method(pb.ModelInferRequest, pb.ModelInferResponse, _unused, fast=echo)
    engine = CqEngine(
        [Service(_PATH, {"Echo": method})], Address("127.0.0.1", 0), tls=None, max_message_bytes=_MESSAGE_BYTES
    )
    port = engine.open(None)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            ask = channel.unary_unary(
                f"/{_PATH}/Echo", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
            )
            if ask(pb.ModelInferRequest(id="hyle"), timeout=_SECONDS).id != "hyle":
                raise NotReadyError("Another answer came back.", remedy="Let the agent use the other engine.")
    finally:
        engine.close(_SECONDS)


async def _unused(request: Any, call: Call) -> Any:
    raise NotReadyError("Only the fast way is tested.", remedy="Ask the agent itself.")
