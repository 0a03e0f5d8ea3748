"""Tiles, latency statistics, refusals and metadata, on their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from types import SimpleNamespace
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from agent_fakes import COLS, connect_twin, manifest_of
from hyle_agent import answers as answers_module
from hyle_agent import errors
from hyle_agent.datatypes import DATATYPES
from hyle_agent.device_watch import DeviceWatch
from hyle_agent.inference import Job, answers_of, respond
from hyle_agent.loading import run_batch
from hyle_agent.model_statistics import Histogram
from hyle_agent.models import Loaded, Model
from hyle_agent.slots import ModelState
from hyle_agent.status import refusal_of
from hyle_agent.tensors import encode
from hyle_agent.tiles import Span, TileMap, tiles_needed, window
from hyle_bundle.manifest import TensorInfo
from hyle_errors import CallerError, InternalError
from hyle_protos.inference import inference_pb2 as pb
from hyle_substrates.driver import DeviceError, SimulatedMatter
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=30))
def test_no_tile_has_two_owners(steps: list[tuple[bool, int]]) -> None:
    tiles, spans = TileMap(16), []
    for claim, number in steps:
        if not claim:
            if spans:
                tiles.free(spans.pop(number % len(spans)))
            continue
        with contextlib.suppress(errors.ConflictError):
            spans.append(tiles.claim(number))
    owned = [tile for span in spans for tile in range(span.start, span.start + span.count)]
    assert len(owned) == len(set(owned)) == tiles.used
    assert all(0 <= tile < 16 for tile in owned)


def test_a_window_numbers_its_tiles_from_zero_and_leaves_the_device_open() -> None:
    twin = connect_twin({"profile": "ideal"})
    levels = np.full((4, 3), 2, np.int32)
    first, second = window(twin, Span(0, 1)), window(twin, Span(5, 2))
    assert isinstance(second, SimulatedMatter)
    first.program(0, levels)
    report = second.program(1, -levels)
    assert report.tile == 1
    assert second.describe().tiles == 2
    assert np.sign(first.weights(0)).tolist() == np.sign(levels).tolist()
    assert np.sign(second.weights(1)).tolist() == np.sign(-levels).tolist()
    second.advance(60.0)
    assert twin.describe().health["age_s"] == 60.0
    assert second.apply([1], np.ones((2, 4), np.int32)).shape == (2, 3)
    second.close()
    twin.weights(6)
    for tile in (-1, 2):
        with pytest.raises(IndexError):
            second.program(tile, levels)


def test_a_window_on_hardware_pretends_no_twin() -> None:
    class Chip:
        def describe(self) -> None: ...

    assert not isinstance(window(Chip(), Span(0, 1)), SimulatedMatter)


def test_a_bundle_without_layers_needs_no_tiles() -> None:
    assert tiles_needed(manifest_of("m", 1)) == 0


@given(st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_within_its_bucket_of_the_true_one(latencies: list[float], fraction: float) -> None:
    histogram = Histogram()
    histogram.add(latencies)
    true = sorted(latencies)[max(1, math.ceil(fraction * len(latencies))) - 1]
    # Half a bucket of an eighth octave on either side, and a rounding of the logarithm at a bucket's edge.
    assert abs(math.log2(histogram.quantile(fraction) / true)) <= 1 / 16 + 1e-9


def test_a_histogram_counts_what_lies_outside_at_its_ends() -> None:
    histogram = Histogram()
    assert math.isnan(histogram.quantile(0.5))
    histogram.add([0.0, 1e9])
    assert histogram.quantile(0.5) < 2e-6
    assert 100 < histogram.quantile(0.99) < 200


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CallerError("a", remedy="b"), grpc.StatusCode.INVALID_ARGUMENT),
        (InternalError("a", remedy="b"), grpc.StatusCode.INTERNAL),
        (DeviceError("a", remedy="b"), grpc.StatusCode.UNAVAILABLE),
        (errors.StoreFullError("a", remedy="b"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.StoreError("a", remedy="b"), grpc.StatusCode.INTERNAL),
        (errors.UnfitError("a", remedy="b"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.UntrustedError("a", remedy="b"), grpc.StatusCode.PERMISSION_DENIED),
        (errors.ExpiredError("a", remedy="b"), grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_one_table_says_which_status_an_error_becomes(error: Exception, code: grpc.StatusCode) -> None:
    refusal = refusal_of(error)
    assert (refusal.code, refusal.message) == (code, "a")
    assert ("hyle-remedy-bin", b"b") in refusal.trailers


def test_every_error_of_the_agent_has_a_status_of_its_own_kind() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)("a", remedy="b")
        assert (refusal_of(error).code is grpc.StatusCode.INTERNAL) <= isinstance(error, InternalError)


def test_an_unexpected_exception_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        refusal = refusal_of(ValueError("3.14159"))
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert "3.14159" not in refusal.message + caplog.text
    assert "ValueError" in caplog.text


def test_a_batch_for_a_program_that_was_closed_meanwhile_is_refused() -> None:
    loaded = Loaded("d", manifest_of("m", 1), None, Span(0, 0), "twin", closed=True)
    with pytest.raises(errors.NotReadyError, match="taken out of service"):
        run_batch(loaded, {}, 1)


def test_a_program_that_forgets_an_output_is_our_fault() -> None:
    manifest = manifest_of("m", 1)
    loaded = Loaded("d", manifest, None, Span(0, 0), "twin")
    job = Job(pb.ModelInferRequest(), Model("m", ModelState()), loaded, {}, manifest.outputs, 1, None)
    with pytest.raises(errors.InternalAnswerError, match="'y'"):
        respond(job, answers_of([job], {}, 1))


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BYTES"])
def test_a_batchs_answers_are_each_requests_own_samples(datatype: str) -> None:
    """Two outputs, requests of different sizes, one that wants the second output only, one without an id."""
    infos = (TensorInfo("y", datatype, (-1, 2)), TensorInfo("z", "FP32", (-1,)))
    manifest = msgspec.structs.replace(manifest_of("m", 1), outputs=infos)
    loaded = Loaded("d", manifest, None, Span(0, 0), "twin")
    numbers = np.arange(12).reshape(6, 2)
    wide = np.array([b"x" * n for n in range(12)], dtype=object).reshape(6, 2)
    values = wide if datatype == "BYTES" else numbers.astype(DATATYPES[datatype].element)
    outputs = {"y": values, "z": np.arange(6, dtype=np.float32)}
    sizes, wanted = (2, 1, 3), (infos, infos, infos[1:])
    model = Model("m", ModelState())
    jobs = [
        Job(pb.ModelInferRequest(id="" if n == 1 else f"id-{n}"), model, loaded, {}, some, size, None)
        for n, (size, some) in enumerate(zip(sizes, wanted, strict=True))
    ]
    answers, start = answers_of(jobs, outputs, 6), 0
    for job in jobs:
        got = pb.ModelInferResponse.FromString(respond(job, answers, start))
        own = {name: array[start : start + job.samples] for name, array in outputs.items()}
        assert got.id == job.request.id
        assert [(o.name, o.datatype, tuple(o.shape)) for o in got.outputs] == [
            (info.name, info.datatype, own[info.name].shape) for info in job.wanted
        ]
        assert list(got.raw_output_contents) == [encode(own[info.name], info.datatype) for info in job.wanted]
        start += job.samples


def test_a_batchs_contents_are_written_once_whatever_its_requests_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request has a tuple of its own, as those that name their outputs do, and another size than the last."""
    infos = (TensorInfo("y", "FP32", (-1, 2)), TensorInfo("z", "FP32", (-1,)))
    manifest = msgspec.structs.replace(manifest_of("m", 1), outputs=infos)
    loaded, model = Loaded("d", manifest, None, Span(0, 0), "twin"), Model("m", ModelState())
    sizes, names = (1, 2, 1, 2), []
    jobs = [Job(pb.ModelInferRequest(), model, loaded, {}, tuple(infos[:n]), n, None) for n in sizes]
    outputs = {"y": np.zeros((6, 2), np.float32), "z": np.zeros(6, np.float32)}
    monkeypatch.setattr(answers_module, "encode", lambda values, name: (names.append(name), encode(values, name))[1])
    answers = answers_of(jobs, outputs, 6)
    for job in jobs:
        respond(job, answers)
    assert names == ["FP32", "FP32"]


def test_a_program_that_answers_for_another_number_of_samples_is_our_fault() -> None:
    manifest = manifest_of("m", 1)
    loaded = Loaded("d", manifest, None, Span(0, 0), "twin")
    job = Job(pb.ModelInferRequest(), Model("m", ModelState()), loaded, {}, manifest.outputs, 1, None)
    outputs = {"y": np.zeros((3, COLS), np.float32), "largest": np.zeros(3, np.int64)}
    with pytest.raises(errors.InternalAnswerError, match=r"\[3, 3\] for 'y'"):
        respond(job, answers_of([job, job], outputs, 2))


def test_a_driver_that_breaks_its_contract_is_watched_on(caplog: pytest.LogCaptureFixture) -> None:
    """A driver that is not built on `AttachedDriver` may raise anything: the watch says so and asks again."""
    looks, seen = iter([KeyError("serial"), True]), asyncio.Event()

    async def look(_: Any) -> bool:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    async def changed() -> None:
        seen.set()

    async def watch() -> None:
        device: Any = SimpleNamespace(described=SimpleNamespace(health={"connected": 1.0}))
        operator: Any = SimpleNamespace(run=look)
        models: Any = None
        task = asyncio.create_task(DeviceWatch(device, operator, models, changed, interval_s=0.01).run())
        await asyncio.wait_for(seen.wait(), 10.0)
        task.cancel()

    asyncio.run(watch())
    assert "KeyError" in caplog.text
