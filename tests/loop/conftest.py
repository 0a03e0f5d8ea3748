from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
for folder in (ROOT / "tests/loop", ROOT / "tests/drivers", ROOT / "tests/edge_agent"):
    sys.path.insert(0, str(folder))

from lending import DIGITS, Lender, lending  # noqa: E402
from served import hyle  # noqa: E402


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits_mlp for the device that every agent here has."""
    out = tmp_path_factory.mktemp("bundle") / "digits.hyle"
    compiling = ["compile", f"{DIGITS}/model.onnx", "--target", "pcm-hermes", "--calib", f"{DIGITS}/calib.npz"]
    hyle(*compiling, "-o", str(out), "--name", "digits", "--instances", "2")
    return out


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Lender]:
    with lending(tmp_path_factory.mktemp("agent"), bundle) as made:
        yield made


@pytest.fixture
def agent(shared: Lender) -> Lender:
    """An agent process that serves digits and lends its device for short times."""
    assert shared.refused() is None, "the test before left the device in use"
    return shared
