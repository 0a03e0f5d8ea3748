"""Physics-aware training: forward on the device, backward through its twin at the activations the device was driven by.

Every second step goes through the twin instead, fitted to what the device was measured to hold whenever it was written:
one write of one device at one age would be learned by heart, and the next write, and age, are others.

Sources: Wright et al. 2022, Nature 601, 549; a twin fitted beside the training: Zheng et al. 2022, arXiv 2212.06141.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hyle_substrates.driver import DeviceError

from hyle_compiler.adapt.method import Adapted, Needs, Task

__all__ = ["METHOD", "PhysicsAware"]

NEEDS = Needs(frozenset({"model", "gradient", "layer reads", "writes"}), "used", True, "1")


@dataclass(frozen=True, slots=True)
class PhysicsAware:
    """First noise-aware training on the twin, then on the device.

    Attributes:
        epochs: Epochs where the budget names none.
        in_silico: Share of the epochs, or of the time, on the twin.
        rate: Highest relative learning rate of Adam in silico.
        slower: The device's share of it.
        clip: Weights are clipped at so many standard deviations of their column.
        rewrite: Steps on the device between two writes of it.
    """

    epochs: int = 8
    in_silico: float = 0.6
    rate: float = 1e-2
    slower: float = 0.5
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
        from hyle_compiler.adapt.fitted import Fitted
        from hyle_compiler.adapt.matter import Drawn
        from hyle_compiler.adapt.training import Batch, Descent, Loop, objective

        loop = Loop(task, self.epochs)
        first = loop.pace(self.in_silico)
        passes = 0

        def learn(batch: Batch, descent: Descent) -> float:
            loss = objective(loop.view.logits(*batch.inputs), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            descent.apply()
            return float(loss.detach())

        if first.steps:
            twin = Drawn(task.profile, task.compensation, loop.generator)
            descent = Descent(loop.view, self.rate, first, self.clip)
            loop.view.put(twin)
            before = loop.run(lambda batch: learn(batch, descent), twin, pace=first)
            if before.outcome != "finished":
                return before
        try:
            device = OnDevice(task, task.driver or TwinDriver(task.profile, task.seed + 7919))
            fitted = Fitted(task, loop.generator)
            device.write(loop.view.physical)
            fitted.fit(device.probed())
        except DeviceError as error:
            if not first.steps:
                raise
            told = f"the device went away before the first step on it ({error.message}); the twin's best was kept"
            return replace(before, outcome="stopped", notes=(*before.notes, told))
        rest = loop.pace()
        slow = Descent(loop.view, self.rate * self.slower, rest, self.clip)
        done = 0

        def step(batch: Batch) -> float:
            nonlocal done, passes
            if done % self.rewrite == 0:
                device.write(loop.view.physical)
                fitted.fit(device.probed())
            loop.view.put(fitted if done % 2 else device)
            passes += 0 if done % 2 else len(batch.inputs[0])
            done += 1
            return learn(batch, slow)

        def measured() -> float:
            return loop.held_out(lambda generator, age_s: fitted.at(generator, age_s))

        after = loop.run(step, fitted, pace=rest, evaluate=measured)
        notes = (*(before.notes if first.steps else ()), *after.notes)
        return replace(after, passes=passes, notes=notes)


METHOD = PhysicsAware()
