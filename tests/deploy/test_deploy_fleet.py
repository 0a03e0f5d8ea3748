"""`hyle deploy --fleet`: waves over real agents on loopback, watched, stopped, rolled back, and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hyle_deploy.fleet import read_fleet

from hyle import connect

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/drivers"))
from served import Served, hyle  # noqa: E402

DIGITS = ROOT / "tests/data/digits_mlp"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions of digits."""
    folder = tmp_path_factory.mktemp("bundles")
    for version in ("1", "2"):
        words = ["compile", f"{DIGITS}/model.onnx", "--target", "ideal", "--calib", f"{DIGITS}/calib.npz"]
        out = ["-o", str(folder / f"{version}.hyle"), "--name", "digits", "--version", version, "--counter", version]
        hyle(*words, *out, "--instances", "1")
    return folder / "1.hyle", folder / "2.hyle"


class Agents:
    """Three agents; the last can be one of another kind, which refuses what the others take."""

    def __init__(self, folder: Path, stack: ExitStack, last: str) -> None:
        self.folder, self.addresses = folder, []
        for number, profile in enumerate(("ideal", "ideal", last)):
            (folder / str(number)).mkdir()
            agent = stack.enter_context(Served(folder / str(number), "--insecure", "--profile", profile))
            self.addresses.append(agent.address)

    def fleet(self, names: str, **settings: object) -> Path:
        path = self.folder / "fleet.toml"
        fields = {"settle_s": 0.2, "waves": [1, 1], **settings}
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
        agents = [f'[[agent]]\nname = "{name}"\naddress = "{self.addresses[int(name)]}"\n' for name in names]
        path.write_text(text + "".join(agents))
        return path

    def versions(self, numbers: str) -> list[str]:
        found = []
        for number in numbers:
            with connect(self.addresses[int(number)]) as client:
                models = client.status().models
                serving = models[0].serving if models else None
                found.append(serving.version if serving else "")
        return found


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    with ExitStack() as stack:
        yield Agents(tmp_path, stack, "pcm-hermes")


def rolled(bundle: Path, fleet: Path, *more: str) -> tuple[int, dict[str, Any]]:
    words = [sys.executable, "-m", "hyle", "deploy", str(bundle), "--fleet", str(fleet), "--json", *more]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


def states(document: dict[str, Any]) -> list[list[tuple[str, str]]]:
    return [[(one["name"], one["state"]) for one in wave] for wave in document["waves"]]


def test_a_rollout_goes_out_in_waves_and_takes_in_who_joins_late(agents: Agents, bundles: tuple[Path, Path]) -> None:
    first, _ = bundles
    code, document = rolled(first, agents.fleet("01"), "--one-wave")
    assert (code, document["outcome"], states(document)) == (0, "paused", [[("0", "done")]])
    assert agents.versions("01") == ["1", ""]
    fleet = agents.fleet("01", check=["false"])
    code, document = rolled(first, fleet)
    assert (code, document["outcome"], states(document)) == (0, "finished", [[("1", "done")]])
    assert agents.versions("01") == ["1", "1"]
    assert rolled(first, fleet)[1]["waves"] == []
    late = agents.fleet("10")
    assert rolled(first, late)[1]["outcome"] == "finished"


def test_a_wave_that_fails_beyond_the_threshold_is_rolled_back_and_the_rest_is_left_alone(
    agents: Agents, bundles: tuple[Path, Path]
) -> None:
    first, second = bundles
    rolled(first, agents.fleet("01"))
    code, document = rolled(second, agents.fleet("021", waves=[2]))
    assert (code, document["outcome"]) == (1, "stopped")
    assert states(document) == [[("0", "rolled back"), ("2", "failed")]]
    assert "pcm-hermes" in document["reason"]
    assert agents.versions("01") == ["1", "1"]
    code, document = rolled(second, agents.fleet("021", waves=[2], most_failures=0.5))
    assert (code, document["outcome"]) == (0, "finished")
    assert states(document) == [[("0", "done"), ("2", "failed")], [("1", "done")]]
    assert agents.versions("01") == ["2", "2"]


def test_a_check_that_fails_holds_the_next_wave(agents: Agents, bundles: tuple[Path, Path]) -> None:
    code, document = rolled(bundles[0], agents.fleet("01", check=["false"]))
    assert (code, document["outcome"], agents.versions("01")) == (0, "paused", ["1", ""])
    code, document = rolled(bundles[1], agents.fleet("01", check=["./there-is-none"]))
    assert code == 2
    assert "there-is-none" in document["error"]


def test_a_check_is_found_beside_the_fleets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fleet").mkdir()
    monkeypatch.chdir(tmp_path)
    agent = "[[agent]]\naddress = 'a:1'\n"
    for check in (["./looks-good.sh", "./x"], ["/bin/true"], ["python3", "./x"]):
        Path("fleet/fleet.toml").write_text(f"check = {json.dumps(check)}\n{agent}")
        beside = str(tmp_path / "fleet/looks-good.sh") if check[0].startswith(".") else check[0]
        assert read_fleet(Path("fleet/fleet.toml")).check == (beside, *check[1:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "agent"),
        ("[[agent]]\nname = 'x'\n", "address"),
        ("waves = [0]\n[[agent]]\naddress = 'a:1'\n", "no agents"),
        ('ca = "a\\u0000"\n[[agent]]\naddress = "a:1"\n', "$.ca"),
    ],
)
def test_a_fleet_that_is_none_is_refused(tmp_path: Path, bundles: tuple[Path, Path], text: str, said: str) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(text)
    code, document = rolled(bundles[0], fleet)
    assert code == 2
    assert said in document["error"]
