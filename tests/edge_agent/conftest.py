from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from agent_fakes import Operator, Running, config_for, running

settings.register_profile("agent", deadline=None)  # a shared machine may be slow; no test is timed
settings.load_profile("agent")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def agent(store: Path) -> Iterator[Running]:
    with running(config_for(store)) as made:
        yield made


@pytest.fixture
def channel(agent: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(agent.address) as made:
        yield made


@pytest.fixture
def operator(channel: grpc.Channel) -> Operator:
    return Operator(channel)
