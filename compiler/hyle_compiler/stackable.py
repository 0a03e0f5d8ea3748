"""Find out whether a model answers each sample by itself, so that an agent may put several requests into one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from hyle_compiler.exactness import agree
from hyle_compiler.samples import Samples

__all__ = ["answers_samples_apart"]

Array = np.ndarray[Any, Any]
TRIED = 3
TOLERANCE = 1e-3


def answers_samples_apart(session: ort.InferenceSession, graph: ir.Graph, samples: Samples) -> bool:
    """Whether samples get the same answers alone and beside others.

    A first axis of free size is not always one of samples: it may be time, or be averaged over, and a scale may be
    taken from the whole batch. Answers must agree within `TOLERANCE` of their range: a sum taken in another order moves
    even a float16's answer by less, and another sample's influence is larger in a model that mixes them.

    Args:
        session: The float model.
        graph: Its graph, for the shapes of inputs and outputs.
        samples: What to try it with; the first is used twice if there is only one.

    Returns:
        False also where it cannot be tried: an axis of fixed size, or samples that the model does not take alone.
    """
    values = (*graph.inputs, *graph.outputs)
    if not samples.batched or not all(value.shape and not isinstance(value.shape[0], int) for value in values):
        return False
    count = max(2, min(TRIED, len(samples)))
    feed = {name: np.resize(array[:count], (count, *array.shape[1:])) for name, array in samples.arrays.items()}
    names = [str(value.name) for value in graph.outputs]
    try:
        together = _run(session, names, feed)
        alone = [_run(session, names, {name: array[i : i + 1] for name, array in feed.items()}) for i in range(count)]
    except Exception:  # onnxruntime raises what it likes; what cannot be run alone must not be run together either
        return False
    return all(_alike(whole, [one[k] for one in alone]) for k, whole in enumerate(together))


def _run(session: ort.InferenceSession, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    return list(session.run(list(names), dict(feed)))


def _alike(whole: Array, parts: Sequence[Array]) -> bool:
    if not all(isinstance(part, np.ndarray) and part.shape[:1] == (1,) for part in parts):
        return False
    if {part.shape[1:] for part in parts} != {whole.shape[1:]} or len(whole) != len(parts):
        return False
    joined = np.concatenate(parts)
    if whole.dtype.kind not in "fiub":
        return bool(np.array_equal(whole, joined))
    return agree(whole, joined, TOLERANCE)
