"""The layers of a bundle that run on an attached black box."""

from __future__ import annotations

from typing import Any

import numpy as np
from hyle_bundle.manifest import Box, Manifest
from hyle_errors import CallerError
from hyle_substrates.box_driver import Responsive, check_sizes
from hyle_substrates.driver import Driver, SimulatedMatter

from hyle_runtime.placement import Tensors

__all__ = ["Boxes", "attached_boxes"]

Array = np.ndarray[Any, Any]


class Boxes:
    """Runs layers on one attached black box.

    Args:
        layers: The bundle's.
        tensors: Its `programming.safetensors`, which holds their parameters.
        device: What is attached.

    Raises:
        CallerError: The device's sizes or range are not those of a layer.
    """

    def __init__(self, layers: tuple[Box, ...], tensors: Tensors, device: Responsive) -> None:
        info = device.box()
        for layer in layers:
            check_sizes(info, (layer.count, layer.inputs, layer.outputs), (layer.low, layer.high), layer.name)
        self._layers = {layer.name: layer for layer in layers}
        self._values = {
            layer.name: np.asarray(tensors.array(layer.values), np.float64).reshape(-1) if layer.count else np.zeros(0)
            for layer in layers
        }
        self._device = device

    def run(self, name: str, known: dict[str, Any]) -> bool:
        """Run a layer on the values known so far and add its own; False if it is no black box.

        Raises:
            CallerError: Its input is not finite.
            DeviceError: The device did not answer.
        """
        layer = self._layers.get(name)
        if layer is None:
            return False
        x = np.asarray(known[layer.input], dtype=np.float64)
        if not np.isfinite(x).all():
            raise CallerError(f"The input of layer {name!r} is not finite.", remedy="Give finite values.")
        driven = np.clip(x, layer.low, layer.high)
        parameters = np.broadcast_to(np.clip(self._values[name], layer.low, layer.high), (len(x), layer.count))
        answer = self._device.respond(parameters, driven) if len(x) else np.zeros((0, layer.outputs))
        known[layer.output] = answer.astype(np.float32)
        return True


def attached_boxes(manifest: Manifest, tensors: Tensors, driver: Driver) -> Boxes | None:
    """Return what runs a bundle's black boxes on the device, or None where their twins do.

    Raises:
        CallerError: The device is no black box, or not one that the bundle was compiled for.
    """
    if not manifest.boxes:
        return None
    if isinstance(driver, Responsive):
        return Boxes(manifest.boxes, tensors, driver)
    if isinstance(driver, SimulatedMatter):
        return None
    raise CallerError(
        f"Layer {manifest.boxes[0].name!r} runs on a black box; the device that is attached is none.",
        remedy="Attach one with the agent's `black_box`, or serve the twin.",
    )
