"""A compiled model on a device: programmed, corrected, and ready to answer."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
from hyle_bundle.manifest import Layer, Manifest
from hyle_errors import InternalError
from hyle_substrates import io
from hyle_substrates.deviates import deviates
from hyle_substrates.driver import Driver, SimulatedMatter
from hyle_substrates.host import Compensation, HostLayer, compensate, probe, probe_in_steps, unit_codes

from hyle_runtime import sessions
from hyle_runtime.boxes import attached_boxes
from hyle_runtime.crew import Crew
from hyle_runtime.diagnosis import Witness, exact_codes, fault_of
from hyle_runtime.placement import (
    DEVIATES,
    NamedTensors,
    Tensors,
    corrections,
    exact_units,
    host_layer,
    instance_weights,
    layers_by_name,
    program_layer,
    tile_targets,
)
from hyle_runtime.residual import residual_of
from hyle_runtime.steps import Steps

__all__ = ["Body", "SelfTest"]

Array = np.ndarray[Any, Any]
PORTION_BYTES = 2**19
SMALLEST_PORTION = 8
# What another thread is given must be worth its while: waking it, with cold caches, costs some 100 microseconds. Until
# that thread has woken up, and the caller again, the caller does more than its share. Both in multiply-accumulates with
# their noise, of which a core does some 30 million in a millisecond.
SHARE_MACS, AHEAD_MACS = 5 * 2**20, 2**21
# Models of fewer multiply-accumulates a sample need so little memory for a run that none is kept.
KEPT_MACS = 2**17
SIGNAL_PROBES = 64
JUST_S = 60.0
SLICE = 32


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Residual of the golden vectors: relative root-mean-square difference from the exact model, and its bound.

    `fault` names what the ADC codes say is wrong with the device, "" for nothing or where nobody looked.
    """

    passed: bool
    residual: float
    tolerance: float
    fault: str = ""


class Body:
    """A bundle's files on a device.

    Args:
        folder: Where the bundle's files lie.
        manifest: Its manifest.
        programming: Its `programming.safetensors`.
        golden: Its `golden.safetensors`.
        driver: The device.
        tiles: Device tile of each of the bundle's tiles; by default the same numbers.
        threads: Threads for one operator; 0 for as many as there are cores.
        side_by_side: Portions of a batch that a fused graph answers at once; 0 for one a core. With more than one,
            chance decides which of them draws which noise, so that no seed gives the same answers again.
        noiseless: Leave the read noise out of the fused graph (a driver brings its own).
        fused: Run a simulated device's graph whole in onnxruntime instead of layer by layer through the driver.
        diagnose: Look at ADC codes during the self-test, where there are any.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        programming: Tensors,
        golden: NamedTensors,
        driver: Driver,
        *,
        tiles: Mapping[int, int] | None = None,
        threads: int = 0,
        side_by_side: int = 1,
        fused: bool = True,
        noiseless: bool = False,
        diagnose: bool = False,
    ) -> None:
        self.manifest = manifest
        self._folder, self._tensors, self._golden, self._driver = folder, programming, golden, driver
        self._tiles = (
            dict(tiles) if tiles is not None else {t.index: t.index for layer in manifest.layers for t in layer.tiles}
        )
        self._profile = driver.describe().profile
        self._threads = threads
        self._noiseless = noiseless
        self._layers = layers_by_name(manifest.layers)
        self._hosts: dict[str, HostLayer] = {}
        self._boxes = attached_boxes(manifest, programming, driver)
        self._fused = (fused or bool(manifest.boxes)) and isinstance(driver, SimulatedMatter) and self._boxes is None
        self._witness = Witness(driver) if diagnose and not self._fused else None
        self._driver = self._witness or driver
        self._whole: ort.InferenceSession | None = None
        self._portion, self._macs = _portion(manifest), _macs(manifest)
        self._crew = Crew(side_by_side)
        self._sample_energy_j = self._profile.cost.mvm_energy_j * sum(self._reads(layer) for layer in manifest.layers)
        self._steps: Steps | None = None
        self.corrections: dict[str, Compensation] = {}
        self._corrected_at = -math.inf

    def program(self, *, correct: bool = True) -> None:
        """Write every layer to its tiles, and correct, unless that is done later."""
        for layer in self.manifest.layers:
            program_layer(self._driver, layer, self._tensors, self._tiles)
            self._hosts[layer.name] = host_layer(layer, self._tensors, self._tiles)
        if correct:
            self.recalibrate()

    def recalibrate(self) -> None:
        """Measure the device as it is now and correct gains and offsets; the serving graph is replaced at the end."""
        for _ in self.recalibration(vectors=0):
            pass

    def recalibration(self, vectors: int = SLICE) -> Iterator[None]:
        """Do what `recalibrate` does in steps; until the last one is done everything is as it was.

        Args:
            vectors: Most vectors that one step drives through one block of a layer, 0 for all.
        """
        fresh: dict[str, Compensation] = {}
        for layer in self.manifest.layers:
            fresh[layer.name] = yield from self._measure(layer, vectors)
        self.corrections = fresh
        self.renew()
        self._corrected_at = time.monotonic()

    def renew(self) -> None:
        """Answer as the device is now, corrected as it was last: a simulated device's graph holds it as it was."""
        self._corrected_at = -math.inf
        if self._fused:
            threads = 1 if self._portion and self._crew.size > 1 else self._threads
            keep = bool(self._portion) and self._macs >= KEPT_MACS
            twin, weights = self._folder / "twin.onnx", self._instance()
            self._whole = sessions.start(twin, threads=threads, replace=weights, keep_memory=keep, converters=True)
        elif self._steps is None:
            self._steps = Steps(self._folder, self.manifest.steps, self.run_layer, self._threads)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Answer a batch.

        Args:
            inputs: One array for each of the model's inputs, samples first.

        Returns:
            One array for each of the model's outputs.
        """
        names, whole = [output.name for output in self.manifest.outputs], self._whole
        if whole is None:
            if self._steps is None:
                raise InternalError("The model was not programmed.", remedy="Program it before it is asked.")
            known = self._steps.run(inputs)
            return {name: known[name] for name in names}
        portions = self._portions(inputs)
        parts = self._crew.map(lambda feed: whole.run(names, feed), portions)
        answers = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        return dict(zip(names, answers, strict=True))

    def self_test(self) -> SelfTest:
        """Run the golden vectors and compare with the exact model.

        The first test within `JUST_S` of a correction shows the device as it was corrected, and is held to more.
        """
        feed = {i.name: self._golden.array(f"input/{i.name}") for i in self.manifest.inputs}
        size = max([1, *(info.shape[0] for info in self.manifest.inputs if info.shape)])
        if all(feed[info.name].ndim == len(info.shape) + 1 for info in self.manifest.inputs):
            size = 0
        answers, fault = self._watched(feed, size)
        held = [o.name for o in self.manifest.outputs if f"output/{o.name}" in self._golden.names]
        residual = residual_of((answers[name], self._golden.array(f"output/{name}")) for name in held)
        golden, just = self.manifest.golden, time.monotonic() - self._corrected_at < JUST_S
        self._corrected_at = -math.inf
        tolerance = golden.corrected if just and golden.corrected else golden.tolerance
        return SelfTest(residual <= tolerance, residual, tolerance, fault)

    def _watched(self, feed: Mapping[str, Array], size: int) -> tuple[dict[str, Array], str]:
        """Answer samples, by `size` where the model wants that many, and name what ADC codes say is wrong.

        With size 0 each element of the arrays' first axis is one feed.
        """
        if self._witness is None:
            return self._in_batches(feed, size), ""
        self._witness.seen = {}
        try:
            answers = self._in_batches(feed, size)
            return answers, fault_of(self._witness.seen, self._exact_codes, self._profile.adc.levels)
        finally:
            self._witness.seen = None

    def _in_batches(self, feed: Mapping[str, Array], size: int) -> dict[str, Array]:
        if size == 1 and not any(info.shape[:1] == (1,) for info in self.manifest.inputs):
            return self.run(feed)
        count = min(len(array) for array in feed.values())
        if not size:
            singles = [self.run({n: np.asarray(a[i]) for n, a in feed.items()}) for i in range(count)]
            return {name: np.stack([one[name] for one in singles]) for name in singles[0]}
        parts = [self.run({n: a[s : s + size] for n, a in feed.items()}) for s in range(0, count, size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _exact_codes(self, tiles: tuple[int, ...], asked: Array) -> Array:
        targets: dict[int, Array] = {}
        for layer in self.manifest.layers:
            if {self._tiles[tile.index] for tile in layer.tiles} & set(tiles):
                targets |= {self._tiles[index]: part for index, part in tile_targets(layer, self._tensors)}
        return np.concatenate([exact_codes(self._profile, targets[tile], asked) for tile in tiles], axis=1)

    def signal_to_noise(self, name: str) -> float:
        """Variance of a layer's exact answers about each column's mean, over the power of what the device adds.

        The device is as it was last corrected, and driven by some of the layer's probes. A column's mean is the same
        for all inputs, and tells nothing of any; 0 where nothing but means is known.
        """
        host, correction, layer = self._hosts[name], self.corrections[name], self._layers[name]
        scales, wanted = self._golden.array(layer.probe_scales), self._golden.array(layer.responses)
        some = slice(None, None, max(1, len(scales) // SIGNAL_PROBES))
        reads = probe(self._driver, host.blocks, self._codes(layer)[some])
        got = sum(io.decode(codes, gain) for codes, gain in zip(reads, correction.gain, strict=True))
        wrong = got * scales[some, None] + (correction.offset - host.offset) - wanted[some]
        noise = float(np.mean(np.square(wrong, dtype=np.float64)))
        signal = float(np.mean(np.var(wanted[some], axis=0, dtype=np.float64)))
        return signal / noise if noise else float("inf")

    @property
    def whole(self) -> bool:
        """Whether `run` is onnxruntime alone: a twin's graph, or a model without physical layers."""
        return self._fused or not (self.manifest.layers or self.manifest.boxes)

    @property
    def crowded(self) -> bool:
        """Whether `run` cuts a batch into portions for several threads."""
        return self._fused and self._portion > 0 and self._crew.size > 1

    def close(self) -> None:
        """Give the sessions back; the object is not used again."""
        self._whole = None
        self._crew.close()
        if self._steps is not None:
            self._steps.close()
        self._steps = None

    def energy_j(self, samples: int) -> float:
        """Energy of the matrix products of `samples` inferences by the profile's constants, 0 if they give none."""
        return samples * self._sample_energy_j

    def _portions(self, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
        """Cut a large batch, for the crew and so that what lies between two operators stays in a processor's cache."""
        samples = {len(array) for array in inputs.values()} if self._portion else set()
        if len(samples) != 1:
            return [dict(inputs)]
        stops = accumulate(self._sizes(samples.pop()), initial=0)
        return [{name: array[start:stop] for name, array in inputs.items()} for start, stop in pairwise(stops)]

    def _sizes(self, samples: int) -> list[int]:
        """Samples of each portion, the caller's own first: it begins while the others wake, and is given more."""
        if samples < 2:
            return [samples]
        ahead, least = AHEAD_MACS // self._macs, -(-SHARE_MACS // self._macs)
        hands = min(self._crew.size, (samples - ahead) // least)
        if hands < 2:
            hands, ahead = 1, 0
        shared = samples - ahead
        count = hands * -(-shared // (hands * self._portion))
        sizes = [shared // count + (number < shared % count) for number in range(count)]
        return [sizes[0] + ahead, *sizes[1:]]

    def _reads(self, layer: Layer) -> float:
        """Tile reads of one inference: every vector drives all of the layer's tiles."""
        passes = 2 if layer.polarity == "two-pass" else 1
        return layer.macs / (layer.rows * layer.cols) * len(layer.tiles) * passes

    def _measure(self, layer: Layer, vectors: int) -> Generator[None, None, Compensation]:
        host, mode = self._hosts[layer.name], self.manifest.compensation
        if mode == "none":
            return compensate(mode, host)
        if mode in ("global", "column"):
            units = unit_codes(host.blocks, self._profile.dac.levels)
            now = yield from probe_in_steps(self._driver, host.blocks, units, vectors)
            return compensate(mode, host, exact=exact_units(self._profile, layer, self._tensors, host), now=now)
        codes = self._codes(layer)
        parts = [codes[:, block.start : block.stop] for block in host.blocks]
        answers = yield from probe_in_steps(self._driver, host.blocks, parts, vectors)
        scales, wanted = self._golden.array(layer.probe_scales), self._golden.array(layer.responses)
        return compensate(mode, host, now=answers, scales=scales, wanted=wanted)

    def _codes(self, layer: Layer) -> Array:
        codes = self._golden.array(layer.probes)
        return codes.astype(np.int32) if codes.dtype.kind == "i" else codes

    def _instance(self) -> dict[str, Array]:
        matter = cast(SimulatedMatter, self._driver)
        replace: dict[str, Array] = {}
        if self.manifest.layers and self._profile.noise_factor:
            replace[DEVIATES] = deviates() * np.float32(0.0 if self._noiseless else self._profile.noise_factor)
        if self._noiseless:
            replace |= {box.noise: np.zeros((), dtype=np.float32) for box in self.manifest.boxes}
        for layer in self.manifest.layers:
            replace |= corrections(layer, self.corrections[layer.name])
            if self._noiseless:
                replace[layer.noise] = np.zeros((), dtype=np.float32)
            for index in range(len(layer.blocks)):
                weights = [matter.weights(self._tiles[tile.index]) for tile in layer.tiles if tile.block == index]
                replace |= instance_weights(layer, index, weights)
        return replace

    def run_layer(self, name: str, known: dict[str, Any]) -> None:
        """Run one layer on the device as it was last corrected: its input is among the known values, its output joins.

        Args:
            name: The layer.
            known: Values by name, in the operators' layouts.
        """
        if self._boxes is not None and self._boxes.run(name, known):
            return
        layer = self._layers[name]
        known[layer.output] = self._corrected(name).run(self._driver, self._profile, known[layer.input])

    def _corrected(self, name: str) -> HostLayer:
        host, correction = self._hosts[name], self.corrections[name]
        return HostLayer(host.blocks, host.dynamic, host.full_scale, correction.gain, correction.offset, host.geometry)


def _portion(manifest: Manifest) -> int:
    """Samples that are answered at once; 0 where the model must see its batch whole."""
    values = (*manifest.inputs, *manifest.outputs)
    if not manifest.stackable or not manifest.layers or any(info.shape[:1] != (-1,) for info in values):
        return 0
    widest = max(
        4 * layer.macs // (layer.rows * layer.cols) * max(layer.cols * block.col_copies, 1)
        for layer in manifest.layers
        for block in layer.blocks
    )
    return int(max(SMALLEST_PORTION, PORTION_BYTES // max(widest, 1)))


def _macs(manifest: Manifest) -> int:
    """Multiply-accumulates of a sample on physics, with all copies; at least one."""
    return max(1, sum(layer.macs * max(block.col_copies for block in layer.blocks) for layer in manifest.layers))
