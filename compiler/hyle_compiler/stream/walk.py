"""Running the float model and its twins step by step; a value is dropped once nothing reads it any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hyle_bundle import TensorWriter
from hyle_bundle.manifest import Step
from hyle_runtime import sessions
from hyle_substrates.profile import Profile

from hyle_compiler.build import Identity
from hyle_compiler.calibrate import Calibrated
from hyle_compiler.errors import CalibrationError
from hyle_compiler.place import Spans
from hyle_compiler.stream.clock import Clock
from hyle_compiler.stream.layer import LayerRun, run_layer
from hyle_compiler.stream.plan import Plan, Variant
from hyle_compiler.stream.sampled_columns import ColumnError

__all__ = ["Walk"]

Array = np.ndarray[Any, Any]


@dataclass(slots=True, eq=False)
class Walk:
    """One walk through a model.

    Attributes:
        calibrated: The layers that were passed, without their probes, which lie in the files of `probes`.
        errors: Each layer's relative errors by seed and age, as sampled columns give them.
    """

    folder: Path
    steps: Sequence[Step]
    plan: Plan
    profile: Profile
    identity: Identity
    writer: TensorWriter
    clock: Clock
    spans: dict[str, Spans]
    calibrated: dict[str, Calibrated] = field(default_factory=dict)
    probes: dict[str, tuple[Path, Path, Path]] = field(default_factory=dict)
    errors: dict[str, dict[tuple[int, float], ColumnError]] = field(default_factory=dict)

    def run(self, outputs: Sequence[str]) -> dict[Variant, dict[str, Array]]:
        """Run every variant; its outputs by name."""
        known = {
            variant: {name: array[: self.plan.count(variant)] for name, array in self.plan.samples.arrays.items()}
            for variant in self.plan.variants
        }
        last = self._last_reads() | dict.fromkeys(outputs, len(self.steps))
        for number, step in enumerate(self.steps):
            if step.segment:
                self._segment(step, list(known.values()))
            for name in step.layers:
                self._layer(name, known)
            for values in known.values():
                for name in [name for name in values if last.get(name, -1) <= number]:
                    del values[name]
        return {variant: {name: values[name] for name in outputs} for variant, values in known.items()}

    def _last_reads(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for number, step in enumerate(self.steps):
            reads = [*step.inputs, *(str(self.spans[name].layer.x.name) for name in step.layers)]
            last |= dict.fromkeys(reads, number)
        return last

    def _segment(self, step: Step, known: Sequence[dict[str, Array]]) -> None:
        session = sessions.start(self.folder / step.segment)
        for values in known:
            try:
                made = session.run(list(step.outputs), {name: values[name] for name in step.inputs})
            except Exception as error:
                text = (str(error).splitlines() or [""])[0][:300]
                raise CalibrationError(
                    f"The model does not take these samples: {text}", remedy="Check shapes and values."
                ) from error
            values.update(zip(step.outputs, made, strict=True))

    def _layer(self, name: str, known: dict[Variant, dict[str, Array]]) -> None:
        spans, number = self.spans[name], len(self.calibrated)
        rows, cols = spans.layer.matrix.shape
        self.clock.step(f"layer {number + 1} of {len(self.spans)}, {name}", rows * cols)
        x = str(spans.layer.x.name)
        run = LayerRun(spans, self.plan, self.profile, self.identity, self.writer, number)
        done = run_layer(run, {variant: values[x] for variant, values in known.items()})
        for variant, values in known.items():
            values[str(spans.layer.y.name)] = done.answers[variant]
        self.probes[name] = self._spool(number, done.calibrated)
        self.calibrated[name], self.errors[name] = done.calibrated.without_probes(), done.errors

    def _spool(self, number: int, layer: Calibrated) -> tuple[Path, Path, Path]:
        """Put a layer's probes aside, until the golden file is written."""
        paths = []
        for word, array in (("codes", layer.codes), ("scales", layer.scales), ("wanted", layer.wanted)):
            path = self.folder / f"layer-{number}-{word}.npy"
            np.save(path, np.ascontiguousarray(array))
            paths.append(path)
        return paths[0], paths[1], paths[2]
