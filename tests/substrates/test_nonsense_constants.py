"""Constants that mean nothing are refused by name when the sheet is read, not when its numbers turn to NaN."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hyle_substrates import box_profile
from hyle_substrates.box_profile import box_names, load_box
from hyle_substrates.profile import ProfileError, decode_profile, find_profile, profile_names

NUMBER = re.compile(r"(?<![\w.\"-])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])", re.ASCII)
FREE = {
    "slope",
    "intercept",
    "polynomial",
    "program_us",
    "mean_na",
    "std_us",
    "decay_mean_us",
    "alpha",
    "beta",
    "phi_rad",
}
MAY_BE_ZERO = FREE | {
    *("levels", "count", "output_std", "weight_std", "photons", "mvm_latency_s", "mvm_energy_j", "program_time_s"),
    *("age_s", "std_na", "read_na", "low", "decay_std_us", "read_us", "mismatch", "pixel_std", "drift_std_per_day"),
    *("residual_k", "thermal_crosstalk", "phase_std_rad", "drift_std_rad_per_day", "splitter_std_rad", "loss_db"),
    *("crosstalk", "binding", "coupling_bits", "phase_bits", "g_std", "noise_std", "mask_std"),
}


def numbers(text: str) -> list[tuple[str, int, int]]:
    """Name and place of every number that stands for a value, in the lines that hold no words."""
    found, at = [], 0
    for line in text.splitlines(keepends=True):
        bare = re.sub(r'"[^"]*"', lambda word: '"' + "_" * (len(word[0]) - 2) + '"', line.split("#")[0])
        for match in NUMBER.finditer(bare):
            name = re.findall(r"(\w+) *=", bare[: match.start()])
            if name:
                found.append((name[-1], at + match.start(), at + match.end()))
        at += len(line)
    return found


def sheets() -> list[tuple[str, str]]:
    folder = Path(box_profile.__file__).parent / "profiles" / "black_boxes"
    boxes = [(name, (folder / f"{name}.toml").read_text()) for name in box_names()]
    return [(name, find_profile(name)[1].decode()) for name in profile_names()] + boxes


def read(text: str, folder: Path) -> None:
    if "black_box =" not in text:
        decode_profile(text)
        return
    (folder / "box.toml").write_text(text)
    load_box(str(folder / "box.toml"))


@pytest.mark.parametrize(("name", "text"), sheets())
def test_every_number_that_is_none_or_has_the_wrong_sign_is_refused_by_name(
    name: str, text: str, tmp_path: Path
) -> None:
    for field, start, stop in numbers(text):
        values = ["nan", "inf", "-inf"]
        values += [] if field in FREE else ["-1" if "." not in text[start:stop] else "-1.0"]
        values += [] if field in MAY_BE_ZERO else ["0" if "." not in text[start:stop] else "0.0"]
        for value in values:
            with pytest.raises(ProfileError) as caught:
                read(text[:start] + value + text[stop:], tmp_path)
            assert field in str(caught.value), (name, field, value)
            assert caught.value.remedy


@pytest.mark.parametrize(
    ("box", "old", "new", "says"),
    [
        ("diodes-kendall2020", "g_min_us = 1.0", "g_min_us = 200.0", "physics.g_min_us is not below g_max_us"),
        ("oscillators-wang2019", "step = 0.05", "step = 30.0", "physics.step is above duration"),
        ("oscillators-wang2019", "step = 0.05", "step = 1e-9", "physics.step is below one part in 1,000,000"),
        ("reservoir-paquot2012", "beta = [0.0, 1.0]", "beta = [1.0, 0.0]", "physics.beta is an empty range"),
    ],
)
def test_black_boxes_too(box: str, old: str, new: str, says: str, tmp_path: Path) -> None:
    text = dict(sheets())[box]
    assert old in text
    with pytest.raises(ProfileError, match=re.escape(says)):
        read(text.replace(old, new, 1), tmp_path)
