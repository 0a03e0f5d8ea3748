"""A black box where a `Driver` is asked for: alone, or beside a device that multiplies by matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from hyle_errors import CallerError

from hyle_substrates.driver import BlackBox, BlackBoxInfo, Codes, Device, DeviceError, Driver, Floats, ProgramReport
from hyle_substrates.profile import Adc, Array, Dac, Profile, Weights

__all__ = ["TARGET", "BoxDriver", "Responsive", "box_profile"]

TARGET = "black-box"


@runtime_checkable
class Responsive(Protocol):
    """What a driver offers beyond `Driver` when a black box is attached."""

    def box(self) -> BlackBoxInfo:
        """Say what the black box says of itself."""
        ...

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        """Drive it and read it. Contract: `BlackBox.respond`."""
        ...


def box_profile(title: str, validity: str, source: str, inputs: int, outputs: int) -> Profile:
    """Return the constraint sheet that stands for a target without a matrix: it has no tile to program."""
    return Profile(
        name=TARGET,
        substrate="ideal",
        title=title,
        sources=(source,),
        validity=validity,
        array=Array(inputs, outputs, 0),
        weights=Weights(0, "native"),
        dac=Dac(0, "either"),
        adc=Adc(0, 1.0),
    )


class BoxDriver:
    """A driver whose layers are a black box.

    Args:
        box: The black box; closed with the driver.
        driver: The matrix device beside it, if there is one.
    """

    def __init__(self, box: BlackBox, driver: Driver | None = None) -> None:
        self._box, self._driver = box, driver

    def describe(self) -> Device:
        """Return the device; both are connected, or it is not."""
        found = self._box.describe()
        if self._driver is None:
            title = f"black box {found.identity}"[:200]
            profile = box_profile(title, "Says nothing of its physics.", title, found.inputs, found.outputs)
            return Device(found.identity, profile, 0, found.simulated, found.health, found.fault)
        device = self._driver.describe()
        connected = [health["connected"] for health in (found.health, device.health) if "connected" in health]
        health = {**found.health, **device.health, **({"connected": min(connected)} if connected else {})}
        simulated = device.simulated and found.simulated
        return replace(device, simulated=simulated, health=health, fault=found.fault or device.fault)

    def program(self, tile: int, targets: Codes) -> ProgramReport:
        """Write a tile of the matrix device. Contract: `Driver.program`."""
        return self._matrices().program(tile, targets)

    def apply(self, tiles: Sequence[int], codes: Codes) -> Codes:
        """Drive tiles of the matrix device. Contract: `Driver.apply`."""
        return self._matrices().apply(tiles, codes)

    def box(self) -> BlackBoxInfo:
        """Say what the black box says of itself."""
        return self._box.describe()

    def respond(self, parameters: Floats, inputs: Floats) -> Floats:
        """Drive the black box and read it. Contract: `BlackBox.respond`."""
        return self._box.respond(parameters, inputs)

    def close(self) -> None:
        """Give both back."""
        try:
            self._box.close()
        finally:
            if self._driver is not None:
                self._driver.close()

    def _matrices(self) -> Driver:
        if self._driver is None:
            raise DeviceError("A black box multiplies by no matrix.", remedy="Attach a matrix device beside it.")
        return self._driver


def check_sizes(info: BlackBoxInfo, sizes: tuple[int, int, int], span: tuple[float, float], layer: str) -> None:
    """Hold an attached black box against what a layer was compiled for.

    Args:
        info: What is attached.
        sizes: Parameters, inputs and outputs of the layer.
        span: Smallest and largest value that it drives.
        layer: Its name.

    Raises:
        CallerError: They do not fit.
    """
    got = (info.parameters, info.inputs, info.outputs)
    if got != sizes or span[0] < info.low or span[1] > info.high:
        raise CallerError(
            f"Layer {layer!r} wants {sizes[0]} parameters, {sizes[1]} inputs and {sizes[2]} readings of "
            f"[{span[0]:g}, {span[1]:g}]; {info.identity!r} has {got[0]}, {got[1]} and {got[2]} of "
            f"[{info.low:g}, {info.high:g}].",
            remedy="Attach the device with the driver's options that it was fitted with.",
        )
