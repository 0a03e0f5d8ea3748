"""When each model is looked at: at the operator's interval, and more often while it is on trial."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time

from hyle_errors import HyleError

from hyle_agent.control import Controller
from hyle_agent.models import Model, Models
from hyle_agent.operator_thread import OperatorThread
from hyle_agent.policy import Policy
from hyle_agent.status import refusal_of

__all__ = ["Rounds"]

_LOOKS_A_TRIAL = 4
_LATE_S = 0.01


class Rounds:
    """Looks at models until cancelled; sleeps until the next is due.

    Args:
        operator: Runs the looks between other work.
        models: Who is looked at.
        policy: How often.
    """

    def __init__(self, operator: OperatorThread, models: Models, policy: Policy) -> None:
        self._operator, self._models, self._policy = operator, models, policy
        self._changed = asyncio.Event()
        self._looked: dict[str, float] = {}

    def wake(self) -> None:
        """Say that models changed: some may be due earlier now. On the event loop only."""
        self._changed.set()

    async def run(self) -> None:
        """Look at who is due, again and again."""
        while True:
            now = time.monotonic()
            due = {model.name: self._due(model, now) for model in self._models.all() if model.state.active}
            self._looked = {name: self._looked[name] for name in due if name in self._looked}
            for name in [name for name, at in due.items() if at <= now]:
                self._looked[name] = now
                try:
                    await self._operator.run(functools.partial(Controller.look, name=name))
                except HyleError:
                    pass  # the model says so itself
                except Exception as error:
                    refusal_of(error)  # writes it to the log; the rounds go on
            if any(at <= now for at in due.values()):
                continue
            with contextlib.suppress(TimeoutError):
                left = min(due.values(), default=float("inf")) - now
                await asyncio.wait_for(self._changed.wait(), None if left == float("inf") else left + _LATE_S)
            self._changed.clear()

    def _due(self, model: Model, now: float) -> float:
        """When to look at a model, `time.monotonic()`."""
        last = self._looked.setdefault(model.name, now)
        at = last + self._policy.test_s if self._policy.test_s else float("inf")
        if model.state.trial is None:
            return at
        soon = last + self._policy.watch_s / _LOOKS_A_TRIAL
        return min(at, soon, max(model.watched_until, last))
