"""The clients of bench_soak: ordinary ones that check each answer, slow readers of streams, and some that vanish.

As a program (`python soak_clients.py ADDRESS`) it keeps calls in flight until it is killed: a client that vanishes.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import grpc
import numpy as np
from hyle_protos.inference import inference_pb2 as pb
from numpy.typing import NDArray

SERVICE = "/inference.GRPCInferenceService"
MODEL, ROWS, COLS, SAMPLES = "soak", 64, 10, 256
STUCK_S = 30.0
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]

Floats = NDArray[np.float32]
Answers = Mapping[str, Floats]


@dataclass
class Tally:
    """What came back, and what was wrong; written by many threads under the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    codes: Counter[str] = field(default_factory=Counter)
    streamed: int = 0
    wrong: int = 0
    open: int = 0

    def add(self, code: str, wrong: bool) -> None:
        with self.lock:
            self.codes[code] += 1
            self.wrong += wrong
            self.open -= 1


def inputs() -> Floats:
    return np.random.default_rng(99).normal(size=(SAMPLES, ROWS)).astype(np.float32)


def request(x: Floats, id_: str) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=MODEL, id=id_, raw_input_contents=[x.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return made


def right(answer: pb.ModelInferResponse, x: Floats, id_: str, answers: Answers) -> bool:
    exact = x @ answers[answer.model_version]
    got = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(exact.shape)
    # Float32 products of 64 terms: 64 roundings of 6e-8 of terms that are a few units large.
    return answer.id == id_ and bool(np.allclose(got, exact, rtol=1e-4, atol=1e-4))


class Client(threading.Thread):
    """Keeps calls in flight; cancels a tenth, gives a tenth too little time, now and then closes on them all."""

    def __init__(self, address: str, number: int, calls: int, tally: Tally, answers: Answers) -> None:
        super().__init__(daemon=True)
        self._address, self._calls, self._tally, self._answers = address, calls, tally, answers
        self._random = random.Random(number)
        self._x = inputs()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            with grpc.insecure_channel(self._address, options=OPTIONS) as channel:
                free = threading.Semaphore(self._calls)
                ask = channel.unary_unary(f"{SERVICE}/ModelInfer")
                for _ in range(self._random.randrange(200, 2000)):
                    if self.stopped.is_set():
                        break
                    free.acquire()
                    self._ask(ask, free)
                if self._random.random() < 0.5:
                    for _ in range(self._calls):
                        free.acquire(timeout=STUCK_S)

    def _ask(self, ask: grpc.UnaryUnaryMultiCallable, free: threading.Semaphore) -> None:
        row, roll = self._random.randrange(SAMPLES), self._random.random()
        message = request(self._x[row : row + 1], str(row)).SerializeToString()
        timeout = self._random.uniform(0.0005, 0.05) if roll < 0.1 else STUCK_S
        with self._tally.lock:
            self._tally.open += 1
        future = ask.future(message, timeout=timeout)
        future.add_done_callback(lambda done: self._count(done, row, free))
        if 0.1 <= roll < 0.2:
            future.cancel()

    def _count(self, done: grpc.Future, row: int, free: threading.Semaphore) -> None:
        free.release()
        code = "CANCELLED" if done.cancelled() else done.code().name
        wrong = code == "OK" and not self._right(done.result(), row)
        self._tally.add(code, wrong)

    def _right(self, data: bytes, row: int) -> bool:
        return right(pb.ModelInferResponse.FromString(data), self._x[row : row + 1], str(row), self._answers)


class SlowReader(threading.Thread):
    """Streams batches whose answers fill the connection's window, reads one now and then, checks each it reads."""

    def __init__(self, address: str, number: int, tally: Tally, answers: Answers) -> None:
        super().__init__(daemon=True)
        self._address, self._tally, self._answers = address, tally, answers
        self._random = random.Random(number)
        self._x = inputs()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            with grpc.insecure_channel(self._address, options=OPTIONS) as channel:
                ask = channel.stream_stream(
                    f"{SERVICE}/ModelStreamInfer",
                    request_serializer=pb.ModelInferRequest.SerializeToString,
                    response_deserializer=pb.ModelStreamInferResponse.FromString,
                )
                answers = ask(self._batches(), timeout=120)
                try:
                    self._read(answers)
                except grpc.RpcError as error:
                    with self._tally.lock:
                        self._tally.codes[f"stream {error.code().name}"] += 1

    def _batches(self) -> Iterator[pb.ModelInferRequest]:
        for number in range(200):
            yield request(self._x, str(number))

    def _read(self, answers: Iterator[pb.ModelStreamInferResponse]) -> None:
        leave_after = self._random.randrange(20, 200)
        for number, answer in enumerate(answers):
            with self._tally.lock:
                self._tally.streamed += 1
                if not answer.error_message:
                    self._tally.wrong += not right(answer.infer_response, self._x, str(number), self._answers)
            if self.stopped.wait(self._random.uniform(0.0, 0.1)) or number >= leave_after:
                answers.cancel()  # type: ignore[attr-defined]
                return


def vanish(address: str) -> None:
    """Keep calls in flight until killed."""
    x = inputs()
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        ask = channel.unary_unary(f"{SERVICE}/ModelInfer")
        stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
        message = request(x, "v").SerializeToString()
        answers = stream(iter([message] * 10_000))
        while True:
            futures = [ask.future(message) for _ in range(8)]
            next(answers)
            time.sleep(0.01)
            del futures


if __name__ == "__main__":
    vanish(sys.argv[1])
