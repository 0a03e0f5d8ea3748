"""What a training method is: what it needs of the physics and of the data, what it is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import onnx_ir as ir
from hyle_errors import CallerError
from hyle_substrates.driver import Driver
from hyle_substrates.profile import Profile

from hyle_compiler.calibrate import Calibrated
from hyle_compiler.samples import Samples

if TYPE_CHECKING:
    from hyle_compiler.adapt.goal import Goal

__all__ = ["Ability", "AdaptError", "Adapted", "Augment", "Budget", "Method", "Needs", "Outcome", "Task"]

Float32s = np.ndarray[Any, np.dtype[np.float32]]
Ability = Literal["model", "gradient", "layer reads", "writes", "nudging", "reversal", "bidirectional"]
Augment = Literal["none", "shift", "shift+flip"]
Outcome = Literal["finished", "stopped", "diverged"]


class AdaptError(CallerError):
    """A method that does not fit the substrate, the data or what is installed."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of a method.

    Attributes:
        abilities: What the substrate must offer: a digital `model` of it, its `gradient`, `layer reads`, in-loop
            `writes`, `nudging` of the outputs, time `reversal`, `bidirectional` ports.
        labels: Whether it needs labels, uses them, or ignores them.
        torch: Whether it needs torch.
        passes: Passes through the device in one step, in words.
        package: A further package that it needs.
    """

    abilities: frozenset[Ability]
    labels: Literal["needed", "used", "ignored"]
    torch: bool
    passes: str
    package: str | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a method may work: epochs or steps (None for the method's own default), and seconds."""

    epochs: int | None = None
    steps: int | None = None
    seconds: float = 600.0
    batch: int = 100


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a method is given.

    Attributes:
        model: The simplified float model; not changed by the method.
        layers: Physical layers, placed and calibrated on the float model, in graph order.
        samples: What to learn from.
        goal: What their answers should be.
        profile: The target, as the compiler believes it to be.
        compensation: How the agent will correct the device.
        seed: Seed of everything drawn.
        budget: When to stop.
        folder: Scratch space.
        driver: The device in the loop; None for the twin alone.
        augment: How images may be varied without changing their label.
        checkpoint: Where the best parameters so far are kept (`.npz`); read first if it is there.
        progress: Told loss, accuracy and passes.
    """

    model: ir.Model
    layers: tuple[Calibrated, ...]
    samples: Samples
    goal: Goal
    profile: Profile
    compensation: Literal["none", "global", "column", "affine"]
    seed: int
    budget: Budget
    folder: Path
    driver: Driver | None = None
    augment: Augment = "none"
    checkpoint: Path | None = None
    progress: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """What a method gives back: new matrices (rows by columns) and biases by layer name, and how it went.

    `ranges` are input ranges that were learned, by layer name. `passes` counts samples sent through the device or its
    twin; `loss` is the best held-out loss.
    """

    matrices: Mapping[str, Float32s]
    biases: Mapping[str, Float32s]
    outcome: Outcome
    passes: int
    loss: float
    history: tuple[float, ...] = ()
    notes: tuple[str, ...] = field(default=())
    ranges: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """One training method."""

    name: str
    summary: str
    source: str
    needs: Needs

    def run(self, task: Task) -> Adapted:
        """Learn.

        Raises:
            AdaptError: The data do not serve, or a package is missing.
        """
        ...
