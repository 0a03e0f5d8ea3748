"""Whom the attacks are aimed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from agent_fakes import Operator, Running
from hyle_bundle import PrivateKey


@dataclass(frozen=True)
class Victim:
    """An agent that runs only what `key` signed, with version 1 serving."""

    agent: Running
    operator: Operator
    channel: grpc.Channel
    store: Path
    key: PrivateKey
    bundle: Callable[..., Path]
