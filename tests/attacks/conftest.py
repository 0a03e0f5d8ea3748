"""Each attack is shown three times: the honest form passes, the attack is refused, and, where one guard alone stands
against it and can be taken away, it succeeds without that guard."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "edge_agent"))

from agent_fakes import Operator, config_for, make_bundle, running  # noqa: E402
from hyle_bundle import PrivateKey, generate_key, load_private_key  # noqa: E402
from victims import Victim  # noqa: E402


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, PrivateKey]:
    for name in ("owner", "stranger"):
        generate_key(name, tmp_path)
    return {name: load_private_key(tmp_path / f"{name}.key") for name in ("owner", "stranger")}


@pytest.fixture
def victim(tmp_path: Path, keys: dict[str, PrivateKey]) -> Iterator[Victim]:
    key, numbers = keys["owner"], iter(range(100))

    def bundle(version: int, **options: object) -> Path:
        folder = tmp_path / f"bundle-{next(numbers)}"
        folder.mkdir()
        return make_bundle(folder, version, **{"key": key, **options})

    config = config_for(tmp_path / "store", insecure=False, trusted=(str(tmp_path / "owner.pub"),))
    with running(config) as agent, grpc.insecure_channel(agent.address) as channel:
        operator = Operator(channel)
        operator.deploy(bundle(1))
        yield Victim(agent, operator, channel, tmp_path / "store", key, bundle)
