"""How to compile, and what comes of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hyle_bundle.manifest import Manifest
from hyle_substrates.profile import Profile

from hyle_compiler.adapt.method import Augment
from hyle_compiler.build import Identity
from hyle_compiler.errors import OptionError
from hyle_compiler.samples import Samples

__all__ = ["Compiled", "Options", "Setting", "check_options", "identity"]

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
MODEL_VERSION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile.

    Attributes:
        name: Name of the model in the bundle; by default the file's.
        version: Version of the model, for people.
        counter: Monotonic counter; an agent refuses a lower one than it has.
        seed: Seed of everything drawn.
        compensation: How an agent corrects each device; by default what the profile recommends.
        copies: Devices a weight: how often each matrix is written into its own tiles at most; by default as often as
            the tiles have room and the converters have range.
        instances: Device instances that the compiler verifies on.
        adapt: Training method (`hyle methods`), or `auto`; none by default.
        train: What it learns from, an `.npz` file; by default the calibration samples.
        epochs: How long; by default as the method says.
        augment: How images may be varied without changing their label.
        checkpoint: Where the best weights so far are kept while it learns.
        device: An agent whose device is calibrated and adapted on, by the options of the remote driver: `address`, and
            `ca`, `certificate`, `key`; none by default.
        max_drop: Most accuracy that may be lost, as a fraction; None puts every layer that fits on physics.
        budget_ages_s: Ages in seconds at which `max_drop` is kept.
        devices: How many devices of the target the model is spread over; their tiles are counted through.
        most_replicas: On how many sets of tiles a layer may lie to keep `max_drop`; tried by doubling.
        black_boxes: Fitted twins, ONNX files of `hyle fit`, by the operator or node of the model that runs on them.
        stream: Compile layer by layer, in bounded memory; by default where the weights are more than 96 MiB.
    """

    name: str | None = None
    version: str = "1"
    counter: int = 1
    seed: int = 0
    compensation: Literal["none", "global", "column", "affine"] | None = None
    copies: int | None = None
    instances: int = 6
    adapt: str | None = None
    train: Path | None = None
    epochs: int | None = None
    augment: Augment = "none"
    checkpoint: Path | None = None
    device: Mapping[str, str] | None = None
    max_drop: float | None = None
    budget_ages_s: tuple[float, ...] = (86400.0,)
    most_replicas: int = 4
    devices: int = 1
    black_boxes: Mapping[str, Path] = field(default_factory=dict)
    stream: bool | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A written bundle: its path, digest, manifest and report."""

    path: Path
    digest: str
    manifest: Manifest
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What every pass of one compilation is told.

    Attributes:
        profile: The target.
        samples: What the model is calibrated on.
        options: The caller's choices.
        name: The model's name in the bundle.
        digest: SHA-256 of its source, hexadecimal.
        progress: Told what is being done.
    """

    profile: Profile
    samples: Samples
    options: Options
    name: str
    digest: str
    progress: Callable[[str], None]


def check_options(options: Options) -> None:
    """Refuse before any work what would be refused at the end."""
    for word, value, least in (
        ("seed", options.seed, 0),
        ("counter", options.counter, 0),
        ("instances", options.instances, 1),
        ("devices", options.devices, 1),
        ("replicas", options.most_replicas, 1),
        ("epochs", 1 if options.epochs is None else options.epochs, 1),
    ):
        if value < least:
            raise OptionError(f"--{word} {value} is too small.", remedy=f"Give {least} or more.")
    for word, text, pattern in (("name", options.name, MODEL_NAME), ("version", options.version, MODEL_VERSION)):
        if text is not None and not re.fullmatch(pattern, text):
            raise OptionError(
                f"{text!r} is no {word} for a bundle.",
                remedy="Use letters, digits, '.', '_' and '-' (a version also '+'), a letter or digit first.",
            )


def identity(setting: Setting, *, clip: bool = False) -> Identity:
    """Who this compilation is; `clip` where the accuracy budget clips weights."""
    options = setting.options
    return Identity(
        setting.name,
        options.version,
        options.counter,
        options.seed,
        setting.digest,
        options.copies,
        options.compensation,
        clip,
    )
