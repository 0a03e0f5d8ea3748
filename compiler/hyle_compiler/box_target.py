"""A fitted black box as the target of a compilation: everything but its own layers stays digital."""

from __future__ import annotations

import json

from hyle_substrates.box_driver import TARGET, box_profile
from hyle_substrates.fit_record import FitRecord
from hyle_substrates.profile import Profile

from hyle_compiler.partition import Digital, Partition

__all__ = ["only_boxes", "target_of"]


def target_of(record: FitRecord) -> tuple[Profile, bytes]:
    """Return the constraint sheet that stands for a fitted black box, and its text."""
    validity = (
        f"Held-out correlation {record.correlation.value:.4f}, relative error {100 * record.error.value:.2f} %, "
        f"for values from {record.low:g} to {record.high:g} on this very device."
    )
    source = f"fitted by hyle fit to {record.identity}: {record.family}, seed {record.seed}"
    profile = box_profile(f"{record.name}: black box", validity, source, record.inputs, record.outputs)
    a = profile.array
    lines = [
        f"name = {json.dumps(profile.name)}",
        f"substrate = {json.dumps(profile.substrate)}",
        f"title = {json.dumps(profile.title)}",
        f"sources = [{json.dumps(source)}]",
        f"validity = {json.dumps(validity)}",
        f"\n[array]\nrows = {a.rows}\ncols = {a.cols}\ncount = 0",
        '\n[weights]\nlevels = 0\nencoding = "native"',
        '\n[dac]\nlevels = 0\nrange = "either"',
        "\n[adc]\nlevels = 0\nfull_scale = 1.0",
    ]
    return profile, ("\n".join(lines) + "\n").encode()


def only_boxes(parts: Partition, profile: Profile) -> Partition:
    """Leave every matrix product digital where the target is a black box."""
    if profile.name != TARGET:
        return parts
    stay = tuple(Digital(c.name, c.node.op_type, "the target is a black box") for c in parts.physical)
    return Partition((), (*parts.digital, *stay))
