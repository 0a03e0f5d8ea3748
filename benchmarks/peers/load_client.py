"""One gRPC client with several calls in flight, each with an id of its own; prints requests/s and latencies as JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import grpc

METHOD = "/inference.GRPCInferenceService/ModelInfer"
ID_TAG = b"\x1a"  # field 3 of ModelInferRequest, a string


def main() -> None:
    address, body, calls, total = sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3]), int(sys.argv[4])
    latencies: list[float] = []
    numbers = iter(range(total))
    finished = threading.Semaphore(0)
    secure = grpc.ssl_channel_credentials(Path(sys.argv[5]).read_bytes()) if len(sys.argv) > 5 else None
    with grpc.secure_channel(address, secure) if secure else grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(METHOD)

        def begin() -> None:
            number = next(numbers, None)
            if number is None:
                finished.release()
                return
            name = b"request %08d" % number
            start = time.perf_counter()

            def done(call: grpc.Future) -> None:
                latencies.append(time.perf_counter() - start)
                if name not in call.result():
                    raise SystemExit("an answer to another request came back")
                begin()

            ask.future(body + ID_TAG + bytes([len(name)]) + name).add_done_callback(done)

        start = time.perf_counter()
        for _ in range(calls):
            begin()
        for _ in range(calls):
            finished.acquire()
        seconds = time.perf_counter() - start
    latencies.sort()
    at = {f"p{p}_ms": latencies[int(len(latencies) * p / 100)] * 1e3 for p in (50, 99)}
    print(json.dumps({"per_s": total / seconds, **at}))


if __name__ == "__main__":
    main()
