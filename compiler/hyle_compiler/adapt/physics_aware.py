"""Physics-aware training: forward on the device, backward through its twin at the activations the device was driven by.

Source: Wright et al. 2022, Nature 601, 549.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyle_compiler.adapt.method import Adapted, Needs, Task

__all__ = ["METHOD", "PhysicsAware"]

NEEDS = Needs(frozenset({"model", "gradient", "layer reads", "writes"}), "used", True, "1")


@dataclass(frozen=True, slots=True)
class PhysicsAware:
    """First noise-aware training on the twin, then on the device.

    Attributes:
        epochs: Epochs where the budget names none.
        in_silico: Share of the epochs on the twin.
        rate: Highest relative learning rate of Adam in silico; a quarter of it on the device.
        clip: Weights are clipped at so many standard deviations of their column.
        rewrite: Steps on the device between two writes of it.
    """

    epochs: int = 8
    in_silico: float = 0.6
    rate: float = 1e-2
    clip: float = 3.0
    rewrite: int = 25
    name: str = "pat"
    summary: str = "physics-aware training: forward on the device, backward through its twin"
    source: str = "Wright et al. 2022, Nature 601, 549"
    needs: Needs = NEEDS

    def run(self, task: Task) -> Adapted:
        """Train; contract: `Method.run`. With no device attached, a twin of another seed takes its place."""
        from hyle_substrates.twin import TwinDriver

        from hyle_compiler.adapt.device import OnDevice
        from hyle_compiler.adapt.matter import Drawn
        from hyle_compiler.adapt.training import Batch, Descent, Loop, objective

        loop = Loop(task, self.epochs)
        twin = Drawn(task.profile, task.compensation, loop.generator)
        device = OnDevice(task, task.driver or TwinDriver(task.profile, task.seed + 7919))
        switch = int(loop.steps * self.in_silico)
        descents = [
            Descent(loop.view, self.rate, max(1, switch), self.clip),
            Descent(loop.view, self.rate / 4, max(1, loop.steps - switch), self.clip),
        ]
        done = 0

        def step(batch: Batch) -> float:
            nonlocal done
            on_device = done >= switch
            if on_device and (done - switch) % self.rewrite == 0:
                device.write(loop.view.physical)
            loop.view.put(device if on_device else twin)
            done += 1
            loss = objective(loop.view.logits(*batch.inputs), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            descents[on_device].apply()
            return float(loss.detach())

        def measured() -> float:
            import torch

            if done < switch:
                return loop.held_out()
            device.write(loop.view.physical)
            with torch.no_grad(), loop.view.on(device):
                batch = loop.kept
                return float(objective(loop.view.logits(*batch.inputs), batch))

        return loop.run(step, twin, evaluate=measured)


METHOD = PhysicsAware()
