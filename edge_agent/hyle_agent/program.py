"""What the agent asks of a loaded bundle: arrays in, arrays out, on the device thread only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from hyle_bundle.manifest import Manifest
from hyle_substrates.driver import Driver

__all__ = ["Array", "Load", "Program", "SelfTestResult"]

Array = np.ndarray[Any, np.dtype[Any]]


class SelfTestResult(Protocol):
    """How the golden vectors came back: the relative root-mean-square residual beside its bound."""

    @property
    def passed(self) -> bool:
        """Whether the residual is within the tolerance."""
        ...

    @property
    def residual(self) -> float:
        """Relative root-mean-square residual, 1 is as large as the answers themselves."""
        ...

    @property
    def tolerance(self) -> float:
        """The bound for a healthy device, same unit."""
        ...

    @property
    def fault(self) -> str:
        """What the ADC codes say is wrong with the device, "" for nothing."""
        ...


class Program(Protocol):
    """One bundle, programmed into the device. Every call is made on the device thread."""

    @property
    def tiles(self) -> int:
        """Tiles of the device that it occupies; 0 for a model that is digital throughout."""
        ...

    @property
    def shared(self) -> bool:
        """Whether `run` leaves the driver alone, so that another thread may call it while the device thread is idle."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether `run` answers a batch on every core there is."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one batch.

        Args:
            inputs: One array for each of the manifest's inputs, samples first.

        Returns:
            One array for each of the manifest's outputs.

        Raises:
            CallerError: A value that the DAC cannot represent.
            DeviceError: The device did not answer, or answered what no ADC can say.
        """
        ...

    def self_test(self) -> SelfTestResult:
        """Run the golden vectors."""
        ...

    def recalibration(self) -> Iterator[None]:
        """Measure the compensation anew on the device, in bounded steps; it takes effect with the last one."""
        ...

    def energy_j(self, samples: int) -> float:
        """Return the estimated energy of `samples` samples."""
        ...

    def close(self) -> None:
        """Give sessions and memory back; the tiles are free afterwards."""
        ...


class Load(Protocol):
    """Makes a program from a slot's folder; the executor's `load`."""

    def __call__(self, directory: Path, manifest: Manifest, driver: Driver, *, threads: int) -> Program:
        """Open the files in `directory` and program the device; `threads` bounds the digital part's threads."""
        ...
