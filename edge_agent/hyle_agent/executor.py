"""Runs a slot's bundle on the device: arrays in, arrays out; knows no gRPC."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from hyle_bundle import TensorFile
from hyle_bundle.manifest import Manifest
from hyle_runtime.body import Body, SelfTest
from hyle_substrates.driver import Driver
from hyle_substrates.twin import TwinDriver
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from hyle_agent.errors import RequestError
from hyle_agent.program import Array, Program
from hyle_agent.suitability import check_target

__all__ = ["Executor", "load"]


class Executor:
    """A `Program` over `hyle_runtime.Body`, with the bundle's tensors mapped into memory.

    Args:
        directory: A slot's folder.
        manifest: Its manifest.
        driver: The device, or a window on its tiles.
        threads: Threads for one operator; a simulated device uses every core that the process may.
    """

    def __init__(self, directory: Path, manifest: Manifest, driver: Driver, *, threads: int) -> None:
        check_target(manifest, driver.describe().profile.name)
        self._maps = [_map(directory / name) for name in ("programming.safetensors", "golden.safetensors")]
        programming, golden = (TensorFile(memoryview(mapped)) for mapped in self._maps)
        noiseless = isinstance(driver, TwinDriver) and driver.noiseless
        self._body = Body(
            directory,
            manifest,
            programming,
            golden,
            driver,
            threads=threads,
            side_by_side=0,
            noiseless=noiseless,
            diagnose=True,
        )
        self._body.program()
        self.shared = self._body.whole
        self.crowded = self._body.crowded
        self.tiles = sum(len(layer.tiles) for layer in manifest.layers)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one batch; contract: `Program.run`."""
        try:
            return self._body.run(inputs)
        except InvalidArgument:  # names, types and shapes are right: it is a value, and its text may hold it
            message = "An input has a value that the model cannot take, such as an index beyond the end of its table."
            raise RequestError(message, remedy="Send values of the kind that the model was made for.") from None

    def self_test(self) -> SelfTest:
        """Run the golden vectors."""
        return self._body.self_test()

    def recalibration(self) -> Iterator[None]:
        """Measure the compensation anew on the device; contract: `Program.recalibration`."""
        return self._body.recalibration()

    def energy_j(self, samples: int) -> float:
        """Return the estimated energy of `samples` samples on the device, in joules."""
        return self._body.energy_j(samples)

    def close(self) -> None:
        """Give sessions back; the maps go with the last array that looks into them."""
        self._body.close()
        self._maps.clear()


def load(directory: Path, manifest: Manifest, driver: Driver, *, threads: int) -> Program:
    """Open a slot's files and program the device.

    Raises:
        ConflictError: The device is not of the kind that the bundle was compiled for.
        DeviceError: The device could not be programmed.
    """
    return Executor(directory, manifest, driver, threads=threads)


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
