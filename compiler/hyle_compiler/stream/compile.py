"""The streamed compilation as the pipeline calls it: plan, walk, verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from hyle_bundle.manifest import Manifest
from hyle_substrates.profile import Profile

from hyle_compiler.build import Identity
from hyle_compiler.exactness import tolerance_of
from hyle_compiler.golden import GOLDEN
from hyle_compiler.partition import Partition
from hyle_compiler.samples import InputSpec, Samples
from hyle_compiler.stream.build import build_streamed
from hyle_compiler.stream.plan import plan
from hyle_compiler.stream.verify import verify_streamed
from hyle_compiler.tensors import PROGRAMMING

__all__ = ["compile_streamed"]


def compile_streamed(
    folder: Path,
    model: ir.Model,
    parts: Partition,
    samples: Samples,
    inputs: Sequence[InputSpec],
    profile: Profile,
    identity: Identity,
    instances: int,
    ages_s: Sequence[float],
    progress: Callable[[str], None],
) -> tuple[Manifest, dict[str, Any], dict[str, Path]]:
    """Compile a model layer by layer; it is used up.

    Args:
        folder: Where the files go, on the disk of the bundle.
        model: The simplified model.
        parts: What goes on physics, its large matrices stored.
        samples: What it is calibrated and verified on; only the first of many are used.
        inputs: The model's inputs.
        profile: The target.
        identity: Names, seed and choices.
        instances: Device instances to verify on; two at most are.
        ages_s: Ages in seconds to verify at.
        progress: Told what is being done.

    Returns:
        The manifest, the report, and the files by their name in the bundle.
    """
    chosen = plan(samples, inputs, profile, identity.seed, instances, ages_s)
    tolerance = tolerance_of(model)
    built = build_streamed(folder, model, parts.physical, chosen, profile, identity, progress)
    manifest, report = verify_streamed(built, chosen, profile, parts.digital, tolerance)
    return manifest, report, {name: folder / name for name in (PROGRAMMING, GOLDEN)} | built.files
