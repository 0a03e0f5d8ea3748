"""Run a model layer by layer without torch: digital operators by onnxruntime, physical layers on a device or twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from hyle_bundle.manifest import Layer
from hyle_runtime.placement import exact_units, host_layer, program_layer
from hyle_substrates.driver import Driver, SimulatedMatter
from hyle_substrates.host import Compensation, HostLayer, compensate, probe, unit_probe
from hyle_substrates.twin import TwinDriver

from hyle_compiler.activations import start_session
from hyle_compiler.adapt.goal import floating_outputs
from hyle_compiler.adapt.method import AdaptError, Task
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.lower import describe_layer
from hyle_compiler.samples import Samples
from hyle_compiler.tensors import layer_tensors

__all__ = ["DeviceLayers", "Run", "Segments", "matter_of"]

Array = np.ndarray[Any, Any]
AGES_S = (25.0, 3600.0, 86400.0, 31536000.0)


class DeviceLayers:
    """The task's layers written to a device, and corrected as an agent will correct them."""

    def __init__(self, task: Task, driver: Driver) -> None:
        self.driver, self._task = driver, task
        self.profile = driver.describe().profile
        self.hosts: dict[str, HostLayer] = {}
        self._exact: dict[str, list[Array]] = {}
        for calibrated in task.layers:
            self.write(calibrated)
        if isinstance(driver, SimulatedMatter) and driver.describe().health.get("age_s") == 0.0:
            driver.advance(AGES_S[0])
        self.correct()

    def retarget(self, task: Task) -> None:
        """Hold the layers against other weights from now on."""
        self._task = task

    def write(self, calibrated: Calibrated) -> None:
        """Program one layer."""
        described: Layer = describe_layer(calibrated)
        tensors = _Made(layer_tensors(described, calibrated, self.profile.noise_codes))
        tiles = {tile.index: tile.index for tile in described.tiles}
        program_layer(self.driver, described, tensors, tiles)
        host = self.hosts[described.name] = host_layer(described, tensors, tiles)
        if self._task.compensation in ("global", "column"):
            self._exact[described.name] = exact_units(self.profile, described, tensors, host)

    def correct(self) -> None:
        """Measure every layer and correct gains and offsets."""
        for calibrated in self._task.layers:
            name = calibrated.placed.layer.name
            host = self.hosts[name]
            found = self._measured(calibrated, host)
            self.hosts[name] = HostLayer(
                host.blocks, host.dynamic, host.full_scale, found.gain, found.offset, host.geometry
            )

    def _measured(self, calibrated: Calibrated, host: HostLayer) -> Compensation:
        mode = self._task.compensation
        if mode == "none":
            return compensate(mode, host)
        if mode in ("global", "column"):
            now = unit_probe(self.driver, host.blocks, self.profile.dac.levels)
            return compensate(mode, host, exact=self._exact[calibrated.placed.layer.name], now=now)
        codes = calibrated.codes.astype(np.int32) if calibrated.codes.dtype.kind == "i" else calibrated.codes
        answers = probe(self.driver, host.blocks, codes)
        return compensate(mode, host, now=answers, scales=calibrated.scales, wanted=calibrated.wanted)


class _Made:
    def __init__(self, makers: Mapping[str, Any]) -> None:
        self._makers = makers

    def array(self, name: str) -> Array:
        return np.asarray(self._makers[name]())


def matter_of(task: Task, number: int) -> DeviceLayers:
    """The attached device, or twin instance `number` at one of four ages."""
    if task.driver is not None:
        return DeviceLayers(task, task.driver)
    twin = TwinDriver(task.profile, task.seed + 1000 + number)
    twin.advance(AGES_S[number % len(AGES_S)])
    return DeviceLayers(task, twin)


@dataclass(slots=True, eq=False)
class Run:
    """Values known so far in one run over the samples."""

    known: dict[str, Array] = field(default_factory=dict)


class Segments:
    """The digital operators between physical layers, one onnxruntime session for each layer's input."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._layers = MappingProxyType({c.placed.layer.name: c.placed.layer for c in task.layers})
        self._sessions: dict[str, tuple[ort.InferenceSession | None, tuple[str, ...]]] = {}
        self.outputs = floating_outputs(task.model)

    def start(self, samples: Samples) -> Run:
        """Begin a run."""
        return Run(dict(samples.arrays))

    def axis(self, name: str) -> int:
        """Axis of a layer's output that counts its columns."""
        return -1 if self._layers[name].geometry is None else 1

    def advance(self, run: Run, name: str) -> Array:
        """Work out a layer's input from what is known."""
        return self._value(run, str(self._layers[name].x.name))

    def read(self, device: DeviceLayers, name: str, x: Array) -> Array:
        """What the device answers."""
        return device.hosts[name].run(device.driver, device.profile, x)

    def answer(self, run: Run, name: str, y: Array) -> None:
        """Let a layer's output be `y` in this run."""
        run.known[str(self._layers[name].y.name)] = y

    def scaled(self, name: str, y: Array, gain: Array, offset: Array) -> Array:
        """Apply a gain and an offset a column to a layer's output."""
        layer = self._layers[name]
        shape = (-1,) if layer.geometry is None else (1, -1, *[1] * len(layer.geometry.kernel))
        return (y * gain.reshape(shape) + offset.reshape(shape)).astype(np.float32)

    def finals(self, run: Run) -> list[Array]:
        """The model's outputs of floating types."""
        return [self._value(run, output.name) for output in self.outputs]

    def float_outputs(self, samples: Samples) -> dict[str, Array]:
        """What every layer of the float model answers, by layer."""
        names = {str(layer.y.name): name for name, layer in self._layers.items()}
        session, _ = self._session("float", tuple(names), set(samples.arrays))
        assert session is not None
        values = session.run(list(names), dict(samples.arrays))
        return {names[output]: value for output, value in zip(names, values, strict=True)}

    def float_answers(self, samples: Samples) -> list[Array]:
        """The float model's outputs of floating types."""
        names = [output.name for output in self.outputs]
        session, _ = self._session("answers", tuple(names), set(samples.arrays))
        assert session is not None
        return [np.asarray(value) for value in session.run(names, dict(samples.arrays))]

    def distance(self, runs: list[Run], samples: Samples) -> float:
        """Relative root-mean-square difference of the runs' outputs from the float model's, over all outputs."""
        found = []
        for number, answers in enumerate(self.float_answers(samples)):
            wanted = answers.astype(np.float64)
            wrong = np.mean([np.mean((self.finals(run)[number] - wanted) ** 2) for run in runs])
            found.append(wrong / (np.mean(wanted**2) or 1.0))
        return float(np.sqrt(np.mean(found)))

    def _value(self, run: Run, name: str) -> Array:
        if name not in run.known:
            session, needs = self._session(name, (name,), set(run.known))
            assert session is not None
            run.known[name] = session.run([name], {need: run.known[need] for need in needs})[0]
        return run.known[name]

    def _session(
        self, key: str, outputs: tuple[str, ...], known: set[str]
    ) -> tuple[ort.InferenceSession | None, tuple[str, ...]]:
        if key not in self._sessions:
            proto, needs = _cut(self._task.model, outputs, known)
            path = self._task.folder / f"segment-{len(self._sessions)}.onnx"
            ir.save(proto, path)
            self._sessions[key] = start_session(path), needs
        return self._sessions[key]


def _cut(model: ir.Model, outputs: tuple[str, ...], known: set[str]) -> tuple[ir.Model, tuple[str, ...]]:
    """The part of a graph that makes `outputs` from known values."""
    values = ir.convenience.create_value_mapping(model.graph)
    wanted, seen, needs = list(outputs), set[str](), dict[str, None]()
    while wanted:
        name = wanted.pop()
        if name in seen or name in model.graph.initializers:
            continue
        seen.add(name)
        producer = values[name].producer()
        if name in known or producer is None:
            needs[name] = None
            continue
        wanted += [str(value.name) for value in producer.inputs if value is not None and value.name]
    try:
        part = ir.convenience.extract(model.graph, list(needs), list(outputs))
    except ValueError as error:
        raise AdaptError(
            "This model cannot be run layer by layer: control flow reaches over its physical layers.",
            remedy="Compile it without --adapt.",
        ) from error
    made = ir.Model(part, ir_version=model.ir_version or 8, functions=list(model.functions.values()))
    made.opset_imports.update(model.opset_imports)
    return made, tuple(needs)
