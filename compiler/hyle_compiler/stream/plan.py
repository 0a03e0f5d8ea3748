"""What a model is compiled with that is seen once, layer by layer: how many samples, twins, and bytes of disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from hyle_substrates.profile import Profile

from hyle_compiler.errors import CalibrationError, OutputError
from hyle_compiler.samples import InputSpec, Samples

__all__ = ["STREAM_BYTES", "Plan", "Variant", "plan", "require_room", "weight_bytes"]

STREAM_BYTES = 96 << 20
MOST_SAMPLES = 32
MOST_VECTORS = 64
VERIFIED_VECTORS = 16
MOST_INSTANCES = 2
SPARE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the model: as floats, or as a twin that is exact (no seed) or an instance at an age in seconds."""

    twin: bool
    seed: int | None = None
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The samples that layers are calibrated on, how many of them twins run, and the variants, the float one first."""

    samples: Samples
    verified: int
    variants: tuple[Variant, ...]

    def count(self, variant: Variant) -> int:
        """Samples that a variant runs."""
        return self.verified if variant.twin else len(self.samples)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def plan(
    samples: Samples, inputs: Sequence[InputSpec], profile: Profile, seed: int, instances: int, ages_s: Sequence[float]
) -> Plan:
    """Take as many samples as make about 64 vectors a layer, and twins that run about 16.

    The samples of a sequence are as many vectors as it has positions, others one.

    Raises:
        CalibrationError: The model wants a larger batch than there are samples.
    """
    length = max((_positions(spec, samples) for spec in inputs), default=1)
    fixed = [spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None]
    count = min(len(samples), MOST_SAMPLES, max(1, MOST_VECTORS // length))
    verified = min(count, max(1, VERIFIED_VECTORS // length))
    if fixed and fixed[0]:
        count = verified = fixed[0]
        if count > len(samples):
            raise CalibrationError(
                f"The model wants batches of {count}; there are {len(samples)} samples.", remedy="Give more samples."
            )
    twins = [Variant(True)]
    if profile.substrate != "ideal" or profile.adc.levels:
        few = min(instances, MOST_INSTANCES if verified * length <= 4 * VERIFIED_VECTORS else 1)
        twins += [Variant(True, seed + number, age) for number in range(few) for age in ages_s]
    return Plan(samples.head(count), verified, (Variant(False), *twins))


def _positions(spec: InputSpec, samples: Samples) -> int:
    shape = samples.arrays[spec.name].shape
    sequence = len(shape) == 3 or (len(shape) == 2 and spec.dtype.kind in "iu")
    return shape[1] if sequence else 1


def require_room(folder: Path, needed: int) -> None:
    """Refuse a folder whose disk has less than `needed` bytes free.

    Raises:
        OutputError: It has; nothing was written.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise OutputError(
            f"Compiling needs {_gb(needed + SPARE_BYTES)} GB beside the output; {folder.resolve()} has {_gb(free)} GB.",
            remedy="Free that much, or name an output on a larger disk.",
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"
