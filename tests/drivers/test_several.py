"""Several devices side by side: the contract of one, and the very answers that each gives alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hyle_agent.drivers.several import connect
from hyle_agent.errors import ConfigError
from hyle_substrates import conformance, conformance_driver
from hyle_substrates.conformance import Subject
from hyle_substrates.profile import Profile, decode_profile, find_profile
from hyle_substrates.twin import TwinDriver


def small_chip(count: int) -> tuple[Profile, bytes]:
    _, text = find_profile("pcm-hermes")
    short = text.replace(b"rows = 256\ncols = 256\ncount = 64", b"rows = 64\ncols = 64\ncount = %d" % count)
    return decode_profile(short), short


def test_several_twins_keep_the_contract_of_one() -> None:
    options = {"of": "twin", "devices": "2", "profile": "pcm-hermes", "seed.2": "1"}
    findings = conformance.run(conformance_driver.CHECKS, Subject(lambda: connect(options)))
    wrong = [finding for finding in findings if finding.outcome == "failed"]
    assert not wrong, wrong


def test_several_devices_answer_as_one_does(tmp_path: Path) -> None:
    profile, text = small_chip(2)
    (tmp_path / "chip.toml").write_bytes(text)
    options = {"of": "twin", "devices": "3", "profile": str(tmp_path / "chip.toml"), "seed": "7", "seed.2": "8"}
    joined = connect(options)
    assert joined.describe().tiles == 6
    assert joined.describe().identity == "twin:pcm-hermes:7+twin:pcm-hermes:8+twin:pcm-hermes:7"
    rng = np.random.default_rng(0)
    alone = [TwinDriver(profile, seed, noiseless=True) for seed in (7, 8, 7)]
    targets = [rng.integers(-127, 128, (20, 5)).astype(np.int32) for _ in range(6)]
    for tile, levels in enumerate(targets):
        assert joined.program(tile, levels).tile == tile
        alone[tile // 2].program(tile % 2, levels)
    codes = rng.integers(-127, 128, (40, 20)).astype(np.int32)
    want = np.concatenate([alone[tile // 2].apply([tile % 2], codes) for tile in (1, 2, 3, 5)], axis=1)
    got = joined.apply([1, 2, 3, 5], codes)
    # The joined twins' reads carry noise of 0.04 x 127 / 10 codes, and a half code of rounding.
    assert np.std(got - want) < 2 * np.hypot(0.04 * 12.7, 0.5)
    joined.close()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"of": "twin"},
        {"of": "several", "devices": "2"},
        {"of": "twin", "devices": "0"},
        {"of": "no", "devices": "2"},
    ],
)
def test_wrong_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        connect(options)
    assert error.value.remedy


def test_devices_of_different_kinds_are_not_joined(tmp_path: Path) -> None:
    options = {"of": "twin", "devices": "2", "profile.1": "pcm-hermes", "profile.2": "pcm-generic"}
    with pytest.raises(ConfigError, match="Device 2"):
        connect(options)
