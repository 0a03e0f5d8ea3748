from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from agent_fakes import ENGINE, ON_BOTH, Operator, Running, config_for, running

settings.register_profile("agent", deadline=None)  # a shared machine may be slow; no test is timed
settings.load_profile("agent")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.removeprefix("test_agent_") in ON_BOTH:
        metafunc.parametrize("engine", ["completion-queue", "aio"], indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine under test, "auto" where it makes no difference."""
    ENGINE[0] = getattr(request, "param", "auto")
    yield ENGINE[0]
    ENGINE[0] = "auto"


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
