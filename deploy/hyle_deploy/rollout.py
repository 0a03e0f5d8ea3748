"""A bundle goes out to a fleet, wave by wave: each is watched, and rolled back if too much of it fails."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from hyle_errors import HyleError

from hyle_deploy.client import Client, connect
from hyle_deploy.fleet import Fleet, FleetAgent, FleetError, waves_of

__all__ = ["AgentOutcome", "Rollout", "roll_out"]

State = Literal["done", "failed", "rolled back"]
POLL_S = 0.5
BEFORE = "it served there before"


class AgentOutcome(msgspec.Struct, frozen=True):
    """What happened to one agent; who is `done` is left alone by the next run, everybody else is tried again."""

    address: str
    name: str
    state: State
    message: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a rollout ended: every agent of every wave that was begun, in order, and why it ended where it did."""

    outcome: Literal["finished", "paused", "stopped"]
    reason: str
    digest: str
    waves: tuple[tuple[AgentOutcome, ...], ...]


class _Record:
    """Which agents have which bundle, in a file that appears whole."""

    def __init__(self, path: Path, digest: str) -> None:
        self._path, self._digest = path, digest
        try:
            self._all: dict[str, list[str]] = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
        except FileNotFoundError:
            self._all = {}
        except (OSError, msgspec.MsgspecError) as error:
            raise FleetError(f"{path} is no record of a rollout.", remedy="Remove it, or name another.") from error

    @property
    def done(self) -> set[str]:
        return set(self._all.get(self._digest, []))

    def keep(self, outcomes: Sequence[AgentOutcome]) -> None:
        now = self.done | {one.address for one in outcomes if one.state == "done"}
        now -= {one.address for one in outcomes if one.state != "done"}
        self._all[self._digest] = sorted(now)
        scratch = self._path.with_name(f"{self._path.name}.new")
        with scratch.open("wb") as file:
            file.write(msgspec.json.encode(self._all))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._path)


@dataclass(frozen=True, slots=True)
class _Work:
    """One bundle and where it goes."""

    bundle: Path
    model: str
    digest: str
    fleet: Fleet
    timeout_s: float

    def client(self, agent: FleetAgent) -> Client:
        files = {name: Path(text) for name in ("ca", "cert", "key") if (text := getattr(self.fleet, name))}
        return connect(agent.address, timeout_s=self.timeout_s, **files)  # type: ignore[arg-type]

    def each(self, agents: Sequence[FleetAgent], work: Callable[[FleetAgent], AgentOutcome]) -> list[AgentOutcome]:
        with ThreadPoolExecutor(self.fleet.parallel) as pool:
            return list(pool.map(work, agents))

    def deploy(self, agent: FleetAgent) -> AgentOutcome:
        found = self.look(agent)
        if found.state == "done":
            return msgspec.structs.replace(found, message=BEFORE)
        try:
            with self.client(agent) as client:
                client.deploy(self.bundle)
        except HyleError as error:
            return AgentOutcome(agent.address, agent.name, "failed", str(error))
        return AgentOutcome(agent.address, agent.name, "done")

    def look(self, agent: FleetAgent) -> AgentOutcome:
        """Whether the bundle serves there now."""
        try:
            with self.client(agent) as client:
                models = {model.name: model for model in client.status().models}
        except HyleError as error:
            return AgentOutcome(agent.address, agent.name, "failed", str(error))
        model = models.get(self.model)
        serving = None if model is None else model.serving
        if model is not None and model.ready and serving is not None and serving.digest == self.digest:
            return AgentOutcome(agent.address, agent.name, "done")
        why = "it is gone" if model is None else model.reason or "another version serves"
        return AgentOutcome(agent.address, agent.name, "failed", f"{self.model} does not serve any more: {why}.")

    def back(self, agent: FleetAgent) -> AgentOutcome:
        """Let what served before serve again, if the bundle serves."""
        if self.look(agent).state != "done":
            return AgentOutcome(agent.address, agent.name, "failed", "the bundle does not serve there")
        try:
            with self.client(agent) as client:
                _, version = client.rollback(self.model)
        except HyleError as error:
            return AgentOutcome(agent.address, agent.name, "failed", f"it cannot be rolled back: {error}")
        return AgentOutcome(agent.address, agent.name, "rolled back", f"version {version} serves again")


def roll_out(
    bundle: Path,
    fleet: Fleet,
    record: Path,
    *,
    one_wave: bool = False,
    timeout_s: float = 30.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Rollout:
    """Deploy a bundle to a fleet; who has it already is left alone, so that a second run goes on where one ended.

    Args:
        bundle: The bundle.
        fleet: Where to.
        record: A file that keeps which agents have it.
        one_wave: Stop after the next wave, for checks by people.
        timeout_s: Longest wait for one answer.
        progress: Told what is being done.

    Raises:
        CallerError: The bundle or the record cannot be used.
    """
    from hyle_bundle import open_bundle

    with open_bundle(bundle) as opened:
        work = _Work(bundle, opened.manifest.name, opened.digest, fleet, timeout_s)
    kept, told = _Record(record, work.digest), []
    waves = waves_of(fleet)
    for number, wave in enumerate(waves, 1):
        due = [agent for agent in wave if agent.address not in kept.done]
        if not due:
            continue
        progress(f"wave {number} of {len(waves)}: {len(due)} agents")
        outcomes = _settled(work, due, work.each(due, work.deploy), progress)
        failed = [one for one in outcomes if one.state == "failed"]
        if len(failed) > _allowed(fleet, len(due)):
            progress(f"wave {number} failed: rolling back")
            told.append(tuple(_rolled_back(work, due, outcomes)))
            kept.keep(told[-1])
            reason = f"{len(failed)} of {len(due)} agents of wave {number} failed: {failed[0].message}"
            return Rollout("stopped", reason, work.digest, tuple(told))
        told.append(tuple(outcomes))
        kept.keep(outcomes)
        if number < len(waves) and not _checked(fleet):
            reason = f"the check after wave {number} did not end with 0"
            return Rollout("paused", reason, work.digest, tuple(told))
        if one_wave and number < len(waves):
            return Rollout("paused", f"wave {number} is out; run it again to go on", work.digest, tuple(told))
    return Rollout("finished", "", work.digest, tuple(told))


def _allowed(fleet: Fleet, size: int) -> float:
    return fleet.most_failures if fleet.most_failures >= 1 else fleet.most_failures * size


def _settled(
    work: _Work, due: Sequence[FleetAgent], outcomes: list[AgentOutcome], progress: Callable[[str], None]
) -> list[AgentOutcome]:
    """Watch who got the bundle for a while; who stops serving it has failed."""
    end = time.monotonic() + work.fleet.settle_s
    by_address: dict[str, Any] = {one.address: one for one in outcomes}
    while True:
        watched = [agent for agent in due if by_address[agent.address].state == "done"]
        progress(f"watching {len(watched)} agents")
        lost = [one for one in work.each(watched, work.look) if one.state != "done"]
        by_address |= {one.address: one for one in lost}
        if time.monotonic() >= end:
            return [by_address[agent.address] for agent in due]
        time.sleep(min(POLL_S, max(0.0, end - time.monotonic())))


def _rolled_back(work: _Work, due: Sequence[FleetAgent], outcomes: Sequence[AgentOutcome]) -> list[AgentOutcome]:
    states = {one.address: one for one in outcomes}
    again = [agent for agent in due if states[agent.address].message != BEFORE]
    for one in work.each(again, work.back):
        if one.state == "rolled back" or states[one.address].state == "done":
            states[one.address] = one
    return [states[agent.address] for agent in due]


def _checked(fleet: Fleet) -> bool:
    if not fleet.check:
        return True
    try:
        return subprocess.run(fleet.check, check=False, stdout=subprocess.DEVNULL).returncode == 0
    except OSError as error:
        message = f"The check {fleet.check[0]!r} cannot be run: {error.strerror}."
        raise FleetError(message, remedy="Name a program, and run it again: what is out is recorded.") from error
