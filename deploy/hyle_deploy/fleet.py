"""Which agents a fleet has and how a bundle goes out to them: `fleet.toml`, read into frozen values."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from hyle_bundle.words import Text
from hyle_errors import CallerError

__all__ = ["Fleet", "FleetAgent", "FleetError", "read_fleet", "waves_of"]

Positive = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]


class FleetError(CallerError):
    """A fleet's file, or its record, that does not say what it must."""


class FleetAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One agent: where it is, and its name for people."""

    address: Text
    name: Text = ""


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fleet.

    Attributes:
        agent: The agents, in the order in which they get a bundle.
        waves: Size of each wave: a number of agents, or below 1 a share of them; the rest is a last wave.
        most_failures: Failures that a wave may have before it is rolled back: a number, or below 1 a share of it.
        settle_s: How long a wave is watched before the next begins.
        check: A command that must end with 0 between two waves; none by default.
        parallel: Agents that are served at once.
        ca: Authority that signed the agents' certificates; with `cert` and `key` for agents that ask for them.
    """

    agent: tuple[FleetAgent, ...]
    waves: tuple[Positive, ...] = (1, 0.25)
    most_failures: Positive = 0
    settle_s: Positive = 5.0
    check: tuple[Text, ...] = ()
    parallel: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    ca: Text = ""
    cert: Text = ""
    key: Text = ""


def read_fleet(path: Path) -> Fleet:
    """Read a fleet's file; certificates in it, and a check that is given by a path, are relative to its folder.

    Raises:
        FleetError: It cannot be read, a field is unknown, missing or out of its range, or two agents are one.
    """
    remedy = "Write [[agent]] tables with an address, and optionally waves, most_failures, settle_s, check."
    try:
        fleet = msgspec.convert(tomllib.loads(path.read_text()), Fleet)
    except OSError as error:
        raise FleetError(f"{path} cannot be read: {error.strerror}.", remedy="Name a readable file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise FleetError(f"{path}: {error}.", remedy=remedy) from error
    addresses = [agent.address for agent in fleet.agent]
    if not addresses or len(set(addresses)) < len(addresses):
        raise FleetError(f"{path} names no agent, or one twice.", remedy=remedy)
    if any(size == 0 for size in fleet.waves):
        raise FleetError(f"{path}: a wave of no agents.", remedy="Give sizes of 1 or more, or shares below 1.")
    files = {name: str(path.parent / text) for name in ("ca", "cert", "key") if (text := getattr(fleet, name))}
    check = fleet.check
    if check and "/" in check[0]:  # a bare name is looked up on PATH
        check = (str(path.parent.resolve() / check[0]), *check[1:])
    return msgspec.structs.replace(fleet, check=check, **files)


def waves_of(fleet: Fleet) -> list[Sequence[FleetAgent]]:
    """Cut the agents into waves."""
    left = list(fleet.agent)
    found: list[Sequence[FleetAgent]] = []
    for size in fleet.waves:
        count = int(size) if size >= 1 else math.ceil(size * len(fleet.agent))
        if left:
            found.append(left[:count])
            left = left[count:]
    return [*found, left] if left else found
