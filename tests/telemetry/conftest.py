from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hyle_agent.telemetry import Telemetry, TelemetryConfig, start
from hyle_deploy.broker import Broker, available_brokers, start_broker


def _broker(kind: str, folder: Path) -> Broker:
    if kind not in available_brokers():
        pytest.skip(f"the broker {kind} is not installed here")
    return start_broker(folder, kind=kind)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    with _broker("mosquitto", tmp_path) as broker:
        yield broker


@pytest.fixture(params=["mosquitto", "iotcore"])
def any_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with _broker(request.param, tmp_path) as broker:
        yield broker


@pytest.fixture
def report() -> Iterator[Callable[..., Telemetry]]:
    """Starts telemetry with short intervals; stops all of it at the end."""
    with ExitStack() as stack:

        def begin(port: int, state: object, **options: object) -> Telemetry:
            config = {"node": "edge", "interval_s": 0.1, "rebirth_gap_s": 0.0, "reconnect_max_s": 0.3}
            on_rebirth = options.pop("on_rebirth", None)
            telemetry = start(
                TelemetryConfig(host="127.0.0.1", port=port, **{**config, **options}), state, on_rebirth=on_rebirth
            )
            stack.callback(telemetry.stop)
            return telemetry

        yield begin
