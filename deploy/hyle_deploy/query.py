"""Ask a model about many samples, one request after the other, and say how right and how fast it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from hyle_bundle.scoring import LabelsError, score, wanted_of

from hyle_deploy.samples import Samples
from hyle_deploy.tensors import Array

__all__ = ["Answers", "Latency", "ask"]


class _Model(Protocol):
    def infer(self, model: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """Ask once."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Quantiles over requests, in seconds, from call to answer."""

    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back.

    Attributes:
        outputs: One array an output, samples first, in the order of the samples.
        accuracy: Share of the first output's answers that are right, as `hyle_bundle.scoring` has it; None without
            labels.
        requests: Requests sent.
        seconds: Time from the first request to the last answer.
        latency: Quantiles over the requests.
    """

    outputs: dict[str, Array]
    accuracy: float | None
    requests: int
    seconds: float
    latency: Latency


def ask(
    client: _Model, model: str, samples: Samples, *, batch: int = 1, report: Callable[[int], None] | None = None
) -> Answers:
    """Send all samples, `batch` a request, and wait for each answer before the next request.

    Args:
        client: Whom to ask.
        model: Name of the model.
        samples: What to ask, and the labels if there are any.
        batch: Samples a request, at least 1.
        report: Told the number of samples answered, after every request.

    Raises:
        HyleError: A request was refused or not answered.
        LabelsError: The first output is not one row of class scores a sample, or labels do not fit it.
    """
    gathered: list[dict[str, Array]] = []
    latencies: list[float] = []
    start = time.perf_counter()
    for inputs in samples.batches(batch):
        sent = time.perf_counter()
        gathered.append(client.infer(model, inputs))
        latencies.append(time.perf_counter() - sent)
        if report:
            report(min(len(samples), len(gathered) * batch))
    seconds = time.perf_counter() - start
    join = np.stack if samples.apart else np.concatenate
    outputs = {name: join([answer[name] for answer in gathered]) for name in gathered[0]}
    accuracy = None if samples.labels is None else _accuracy(outputs, samples.labels)
    quantiles = [float(value) for value in np.quantile(latencies, [0.5, 0.9, 0.99, 1.0])]
    return Answers(outputs, accuracy, len(gathered), seconds, Latency(*quantiles))


def _accuracy(outputs: dict[str, Array], labels: Array) -> float:
    name, scores = next(iter(outputs.items()))
    if scores.ndim < 2 or len(scores) != len(labels):
        raise LabelsError(
            f"Output {name!r} of shape {list(scores.shape)} is not one row of scores for each of {len(labels)} labels.",
            remedy="Leave `labels` out of the file; they are for classifiers.",
        )
    return score(scores, wanted_of(scores, labels))
