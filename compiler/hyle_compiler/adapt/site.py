"""Where a training takes place: on the twin, drawn anew in every step, or on the attached device, written at times."""

from __future__ import annotations

import torch

from hyle_compiler.adapt.device import OnDevice
from hyle_compiler.adapt.matter import Drawn
from hyle_compiler.adapt.training import Loop, objective

__all__ = ["Site"]


class Site:
    """The matter under a view while it learns.

    Args:
        loop: The training; its task names the device, if there is one. Its view is put on the matter.
        rewrite: Steps on a device between two writes of it.
    """

    def __init__(self, loop: Loop, rewrite: int = 25) -> None:
        task = loop.task
        self._loop, self._rewrite, self._steps = loop, rewrite, 0
        self._twin = Drawn(task.profile, task.compensation, loop.generator)
        self._device = None if task.driver is None else OnDevice(task, task.driver)
        loop.view.put(self._device or self._twin)

    def renew(self) -> None:
        """Make ready for the next step."""
        if self._device is None:
            self._twin.renew()
        elif self._steps % self._rewrite == 0:
            self._device.write(self._loop.view.physical)
        self._steps += 1

    def held_out(self) -> float:
        """Objective of the held-out samples: over three ages of fixed twins, or on the device as it is now."""
        if self._device is None:
            return self._loop.held_out()
        self._device.write(self._loop.view.physical)
        batch = self._loop.kept
        with torch.no_grad(), self._loop.view.on(self._device):
            return float(objective(self._loop.view.logits(*batch.inputs), batch))
