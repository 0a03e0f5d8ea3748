"""A newly activated slot is on trial: it is marked good after the watch period, or what served before serves again.

The trial is durable. Every start of the process that finds one running counts a death of the process before it, so
that a slot which kills its process is left after so many deaths. A stop that was asked for is none.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time

from msgspec.structs import replace

from hyle_agent.errors import ConflictError, StoreError
from hyle_agent.events import Events
from hyle_agent.models import Model
from hyle_agent.policy import Policy
from hyle_agent.store import Store
from hyle_agent.switch import Switch

__all__ = ["Trials"]

_LOG = logging.getLogger(__name__)
_FEWEST_FAILURES = 3


class Trials:
    """Keeps watch over slots on trial; called on the operator's thread only.

    Args:
        store: Owner of the slots.
        switch: Goes back.
        events: Told how each trial ends.
        policy: How long, and how many deaths.
    """

    def __init__(self, store: Store, switch: Switch, events: Events, policy: Policy) -> None:
        self._store, self._switch, self._events, self._policy = store, switch, events, policy

    @property
    def wanted(self) -> bool:
        """Whether a newly activated slot is put on trial."""
        return self._policy.watch_s > 0

    def begin(self, model: Model) -> None:
        """Start the watch of a slot that was just activated, or mark it good at once where none is wanted."""
        if model.state.trial is None:
            with contextlib.suppress(StoreError):
                self._lift_floor(model)
            return
        model.watched_until = time.monotonic() + self._policy.watch_s
        model.failed_before = (model.statistics.requests, model.statistics.broken)
        self._events.say(
            "trial",
            model.name,
            f"version {_version(model)} is watched for {self._policy.watch_s:g} s",
            slot=_slot(model),
        )

    def resume(self, model: Model) -> None:
        """Look at a trial that a start of the process finds: the process before died of it, unless it was stopped."""
        trial = model.state.trial
        if trial is None:
            return
        deaths = trial.deaths + trial.running
        if deaths >= self._policy.watch_deaths and model.state.previous:
            self._go_back(model, f"the process died {deaths} times while it was on trial")
            return
        if not self._note(model, deaths, running=True) and model.state.previous:
            self._go_back(model, "the store cannot be written, so that nobody would count the deaths of its trial")

    def stop(self, model: Model) -> None:
        """Note that the process stops because it was asked to."""
        if model.state.trial is not None:
            self._note(model, model.state.trial.deaths, running=False)

    def judge(self, model: Model, *, well: bool, why: str = "") -> None:
        """End a trial that failed, or that lasted long enough.

        Args:
            model: Whose active slot was just tested.
            well: Whether the test passed.
            why: What is wrong with it otherwise.
        """
        if model.state.trial is None:
            return
        failing = "" if well else why
        failing = failing or self._failures(model)
        if failing:
            self.fail(model, failing)
        elif time.monotonic() >= model.watched_until:
            self._pass(model)

    def fail(self, model: Model, why: str) -> bool:
        """End a trial that failed; whether the old slot serves again."""
        if model.state.trial is None or not model.state.previous:
            return False
        return self._go_back(model, why)

    def refuse_overwriting(self, model: Model) -> None:
        """Refuse an install that would take the way back from a slot on trial.

        Raises:
            ConflictError: It would.
        """
        if model.state.trial is None or model.state.idle != model.state.previous:
            return
        left = math.ceil(max(0.0, model.watched_until - time.monotonic()))
        message = f"Version {_version(model)} of {model.name!r} is on trial, and the idle slot is its way back."
        raise ConflictError(message, remedy=f"Try again in {left} s, or end the trial with `hyle rollback`.")

    def _failures(self, model: Model) -> str:
        """Say how many of the trial's requests the program failed at, if it was most of them."""
        requests, broken = model.statistics.requests, model.statistics.broken
        asked, failed = requests - model.failed_before[0], broken - model.failed_before[1]
        if failed >= _FEWEST_FAILURES and 2 * failed > asked:
            return f"it failed at {failed} of {asked} requests"
        return ""

    def _pass(self, model: Model) -> None:
        try:
            self._lift_floor(model)
            state = model.state.proven()
            self._store.commit(model.name, state)
        except StoreError as error:
            _LOG.warning("%s stays on trial: %s", model.name, error)
            return
        model.state = state
        self._events.say("proven", model.name, f"version {_version(model)} is marked good", slot=_slot(model))

    def _go_back(self, model: Model, why: str) -> bool:
        left = _version(model)
        try:
            self._switch.go_back(model, why)
        except Exception as error:
            _LOG.warning("%s: cannot go back from version %s: %s", model.name, left, type(error).__name__)
            return False
        message = f"went back from version {left} to {_version(model)}: {why}"
        self._events.say("rollback", model.name, message, slot=_slot(model), version=_version(model))
        return True

    def _note(self, model: Model, deaths: int, *, running: bool) -> bool:
        """Write down how a trial stands; whether it is written."""
        trial = model.state.trial
        if trial is None:
            return True
        model.watched_until = time.monotonic() + self._policy.watch_s
        state = replace(model.state, trial=replace(trial, deaths=deaths, running=running))
        try:
            if state != model.state:
                self._store.commit(model.name, state)
        except StoreError as error:
            _LOG.warning("%s: the trial's deaths cannot be counted: %s", model.name, error)
            return False
        model.state = state
        return True

    def _lift_floor(self, model: Model) -> None:
        active = model.state.slots.get(model.state.active)
        if active is not None:
            self._store.floors.lift(model.name, active.counter)


def _version(model: Model) -> str:
    active = model.state.slots.get(model.state.active)
    return active.version if active else ""


def _slot(model: Model) -> str:
    return model.state.active
