"""The public engine alone: what it does with calls that nobody waits for any more."""

from __future__ import annotations

import asyncio
import logging
import time

import grpc
import pytest
from hyle_agent.address import parse_address
from hyle_agent.aio_engine import AioEngine
from hyle_agent.engine import Call, Method, Service
from hyle_agent.errors import ExpiredError
from hyle_protos.inference import inference_pb2 as pb

CALLS = 40


def ask(port: int) -> set[grpc.StatusCode]:
    """Many calls with little time, and what became of them."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/s/Live", pb.ServerLiveRequest.SerializeToString, pb.ServerLiveResponse.FromString)
        futures = [call.future(pb.ServerLiveRequest(), timeout=0.05) for _ in range(CALLS)]
        return {future.code() for future in futures}


@pytest.mark.parametrize("refuses", [False, True])
def test_nothing_is_sent_to_a_call_whose_deadline_passed(refuses: bool, caplog: pytest.LogCaptureFixture) -> None:
    """grpc would write an error for each to the log, and keep the memory of what it could not send."""

    async def late(request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        await asyncio.sleep(0.02)
        while call.deadline is not None and time.monotonic() < call.deadline:
            time.sleep(0.005)  # like a batch that keeps the loop busy beyond the deadlines of those that it answers
        if refuses:
            raise ExpiredError("The deadline passed.", remedy="Allow more time.")
        return pb.ServerLiveResponse(live=True)

    async def serve() -> set[grpc.StatusCode]:
        service = Service("s", {"Live": Method(pb.ServerLiveRequest, pb.ServerLiveResponse, late)})
        engine = AioEngine([service], parse_address("127.0.0.1:0", "listen"), tls=None, max_message_bytes=1 << 20)
        port = await engine.start()
        try:
            found = await asyncio.to_thread(ask, port)
            await asyncio.sleep(0.5)
            return found
        finally:
            await engine.stop(0.0)

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(serve()) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert not [record.getMessage()[:200] for record in caplog.records]
