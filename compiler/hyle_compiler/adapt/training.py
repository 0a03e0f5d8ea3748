"""The loop that all gradient methods share: batches, held-out loss, the best so far, and every way to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from hyle_substrates.driver import DeviceError

from hyle_compiler.adapt.augment import augmented
from hyle_compiler.adapt.checkpoint import Checkpoint
from hyle_compiler.adapt.descent import Descent
from hyle_compiler.adapt.goal import Goal
from hyle_compiler.adapt.matter import Drawn
from hyle_compiler.adapt.method import Adapted, AdaptError, Augment, Outcome, Task
from hyle_compiler.adapt.pace import Pace
from hyle_compiler.adapt.torch_view import Matter, torch_view
from hyle_compiler.progress import Advance

__all__ = ["Batch", "Descent", "Loop", "Trainer", "objective"]

Tensor: TypeAlias = torch.Tensor
HELD_OUT = 0.1
MOST_HELD_OUT = 500
REFERENCE_AGES_S = (25.0, 86400.0, 31536000.0)
DIVERGED = 10.0
RANGE = "/range"
GIVEN = {"i": torch.int64, "f": torch.float32}


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs in the model's order, labels if there are any, the float model's answers to the same inputs, the goal."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    teacher: Tensor
    goal: Goal


Trainer = Callable[[Batch], float]


class Renewed(Protocol):
    """What is told before every step."""

    def renew(self) -> None:
        """Make ready for the next step."""


def objective(logits: Tensor, batch: Batch) -> Tensor:
    """The loss of answers to a batch, a row a sample (`Goal.loss`)."""
    loss: Tensor = batch.goal.loss(logits, batch.teacher, batch.labels)
    return loss


class Loop:
    """Trains a torch view on a task.

    Args:
        task: What to learn.
        epochs: Epochs where the budget names none.
    """

    def __init__(self, task: Task, epochs: int) -> None:
        torch.manual_seed(task.seed)
        self.task = task
        self.view = torch_view(task.model, task.layers, task.profile)
        self.generator = torch.Generator().manual_seed(task.seed)
        self.epochs = task.budget.epochs or epochs
        self.passes = 0
        self.history: list[float] = []
        self.accuracy: float | None = None
        self._checkpoint = Checkpoint(task)
        self._whole = Pace(1, task.budget.seconds)
        self._done, self._resumed = 0, False
        self._order = np.random.default_rng(task.seed)
        names = [str(value.name) for value in task.model.graph.inputs]
        self._inputs = tuple(torch.tensor(task.samples.arrays[name]) for name in names)
        count = len(self._inputs[0])
        self._shuffled = self._order.permutation(count)
        held = min(MOST_HELD_OUT, max(1, int(count * HELD_OUT)))
        if count < 2:
            raise AdaptError("One sample is not enough to train on.", remedy="Give more samples.")
        self._kept, self._learnt = self._shuffled[:held], self._shuffled[held:]
        self.teacher = torch_view(task.model, task.layers, task.profile)
        given = task.goal.labels
        self._labels = None if given is None else torch.tensor(given).to(GIVEN[given.dtype.kind])

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        per_epoch = -(-len(self._learnt) // self.task.budget.batch)
        return self.task.budget.steps or self.epochs * per_epoch

    def pace(self, share: float = 1.0) -> Pace:
        """Steps and time that are left, or a share of the whole of both."""
        steps, seconds = self.steps - self._done, self.task.budget.seconds * (1.0 - self._whole.spent)
        if share < 1.0:
            steps, seconds = min(steps, int(self.steps * share)), min(seconds, self.task.budget.seconds * share)
        return Pace(max(0, steps), max(0.0, seconds))

    @property
    def kept(self) -> Batch:
        """The held-out samples."""
        return self.batch(self._kept)

    def run(
        self,
        step: Trainer,
        matter: Renewed,
        *,
        pace: Pace,
        evaluate: Callable[[], float] | None = None,
    ) -> Adapted:
        """Train until steps or time are spent; keeps the best parameters by held-out loss, and leaves them in the view.

        Args:
            step: Learns from one batch and returns its loss.
            matter: Renewed before every step.
            pace: Steps and time, the same that the schedule of the learning rate goes by.
            evaluate: Held-out loss; by default over three ages of fixed devices.
        """
        measure, steps = evaluate or self.held_out, pace.steps
        self._resume()
        best, loss = self._parameters(), measure()
        start, outcome = loss, "finished"
        done = 0
        notes: list[str] = []
        try:
            while done < steps:
                for batch in self.batches():
                    matter.renew()
                    now = step(batch)
                    self.passes += len(batch.inputs[0])
                    done += 1
                    self._done += 1
                    if not math.isfinite(now) or now > DIVERGED * max(start, 1.0):
                        outcome = "diverged"
                        notes.append(f"the loss diverged ({now:.3g}) in step {done}; the best before it was kept")
                        raise _StopError
                    if done % 10 == 0:
                        self._tell(now, loss)
                    if done >= steps:
                        raise _StopError
                    if pace.over:
                        notes.append(f"the time was up after {done} of {steps} steps")
                        raise _StopError
                best, loss = self._better(best, loss, measure)
        except _StopError:
            if outcome != "diverged":
                best, loss = self._better(best, loss, measure)
        except DeviceError as error:
            outcome = "stopped"
            notes.append(f"the device went away after {done} steps ({error.message}); the best so far was kept")
        except KeyboardInterrupt:
            outcome = "stopped"
            notes.append(f"interrupted after {done} steps; the best so far was kept")
        self._put(best)
        return self._result(best, loss, start, outcome, notes)

    def batches(self) -> Iterator[Batch]:
        """One epoch in a new order."""
        order = self._order.permutation(self._learnt)
        for first in range(0, len(order), self.task.budget.batch):
            yield self.batch(order[first : first + self.task.budget.batch], self.task.augment)

    def batch(self, which: Any, augment: Augment = "none") -> Batch:
        """The samples of some indices, varied, with the float model's answers."""
        chosen = torch.as_tensor(which)
        inputs = tuple(augmented(x[chosen], augment, self.generator) for x in self._inputs)
        with torch.no_grad():
            teacher = self.teacher.logits(*inputs)
        return Batch(inputs, None if self._labels is None else self._labels[chosen], teacher, self.task.goal)

    def held_out(self, twin: Callable[[torch.Generator, float], Matter] | None = None) -> float:
        """Mean objective of the held-out samples on the same three devices every time.

        Args:
            twin: Makes a device from a source of draws and an age; the task's own twin by default.
        """
        batch = self.batch(self._kept)
        losses, right = [], []
        noise = torch.random.get_rng_state()
        with torch.no_grad():
            for number, age in enumerate(REFERENCE_AGES_S):
                torch.manual_seed(self.task.seed + number)
                generator = torch.Generator().manual_seed(self.task.seed + 1000 + number)
                matter = twin(generator, age) if twin else self._twin(generator, age)
                with self.view.on(matter):
                    logits = self.view.logits(*batch.inputs)
                    losses.append(float(objective(logits, batch)))
                    labels = None if batch.labels is None else batch.labels.numpy()
                    right.append(self.task.goal.right(logits.numpy(), batch.teacher.numpy(), labels))
        torch.random.set_rng_state(noise)
        self.accuracy = float(np.mean(right))
        return float(np.mean(losses))

    def _twin(self, generator: torch.Generator, age_s: float) -> Drawn:
        return Drawn(self.task.profile, self.task.compensation, generator, age_s)

    def _better(self, best: dict[str, Tensor], loss: float, measure: Callable[[], float]) -> Any:
        now = measure()
        self.history.append(now)
        if not now < loss:
            return best, loss
        best = self._parameters()
        self._checkpoint.write({name: value.numpy() for name, value in best.items()})
        return best, now

    def _parameters(self) -> dict[str, Tensor]:
        found = {}
        for layer in self.view.physical:
            found[f"{layer.name}/matrix"] = layer.matrix.detach().clone()
            found[f"{layer.name}/bias"] = layer.bias.detach().clone()
            if layer.full_scale.requires_grad:
                found[f"{layer.name}{RANGE}"] = layer.full_scale.detach().clone()
        return found

    def _put(self, parameters: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for layer in self.view.physical:
                layer.matrix.copy_(parameters[f"{layer.name}/matrix"])
                layer.bias.copy_(parameters[f"{layer.name}/bias"])
                layer.full_scale.copy_(parameters.get(f"{layer.name}{RANGE}", layer.full_scale))

    def _resume(self) -> None:
        done, self._resumed = self._resumed, True
        shapes = {name: tuple(value.shape) for name, value in self._parameters().items() if not name.endswith(RANGE)}
        kept = None if done else self._checkpoint.read(shapes)
        if kept is not None:
            self._put({name: torch.tensor(value) for name, value in kept.items()})

    def _tell(self, now: float, best: float) -> None:
        done, total = self._done, max(self.steps, self._done)
        told = Advance(
            "adapting", done=done, total=total, loss=now, best=best, passes=self.passes, accuracy=self.accuracy
        )
        self.task.progress(told)

    def _result(self, best: dict[str, Tensor], loss: float, start: float, outcome: str, notes: list[str]) -> Adapted:
        names = [layer.name for layer in self.view.physical]
        if not loss < start:
            notes.append("no step lowered the held-out loss: the weights are as they were")
        matrices = {name: best[f"{name}/matrix"].numpy() for name in names}
        biases = {name: best[f"{name}/bias"].numpy() for name in names}
        ranges = {name: float(best[f"{name}{RANGE}"]) for name in names if f"{name}{RANGE}" in best}
        kind: Outcome = outcome  # type: ignore[assignment]
        return Adapted(matrices, biases, kind, self.passes, loss, (start, *self.history), tuple(notes), ranges)


class _StopError(Exception):
    """Leaves the loops."""
