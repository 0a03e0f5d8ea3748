"""Profiles: every one that is shipped holds, and a wrong one says what is wrong and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from hyle_substrates.profile import ProfileError, decode_profile, find_profile, load_profile, profile_names
from hyle_substrates.substrate import load_substrate, substrate_names


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_names_itself_its_sources_and_its_validity(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.substrate in substrate_names()
    assert all(len(source) > 10 for source in profile.sources)
    assert profile.validity.endswith(".")


def test_every_substrate_has_a_profile() -> None:
    assert {load_profile(name).substrate for name in profile_names()} == set(substrate_names())


@pytest.mark.parametrize(
    ("target", "old", "new", "says"),
    [
        ("ideal", 'name = "ideal"', 'name = "ideal\\n"', "name: Expected `str` matching regex"),
        ("pcm-generic", "rows = 512", "rows = 0", "array.rows: Expected `int` >= 1"),
        ("pcm-generic", "rows = 512", 'rows = "many"', "array.rows: Expected `int`, got `str`"),
        ("pcm-generic", "levels = 127", "levels = -1", "weights.levels: Expected `int` >= 0"),
        (
            "pcm-generic",
            'encoding = "differential"',
            'encoding = "magic"',
            "weights.encoding: Invalid enum",
        ),
        ("pcm-generic", "[noise]", "[nois]", "Object contains unknown field `nois`"),
        ("pcm-generic", "full_scale = 12.0", "full_scale = 0.0", "adc.full_scale: Expected `float` > 0"),
        ("pcm-generic", "t0_s = 20.0\n", "", "physics: Object missing required field `t0_s`"),
        ("pcm-generic", "g_max_us = 25.0", "g_max_us = -1.0", "physics.g_max_us: Expected `float` > 0"),
        ("pcm-generic", 'law = "power"', 'law = "cubic"', "physics.read.law: Invalid value 'cubic'"),
        ("pcm-generic", 'substrate = "pcm"', 'substrate = "ether"', "There is no substrate 'ether'"),
        ("rram-neurram", "age_s = 86400.0", "age_s = 0.5", "physics.relaxation is not in the order of time"),
        ("flash-sonos", "age_s = 86400.0", "age_s = 172800.0", "physics.retention is not in the order of time"),
        ("rram-cmo", "g_min_us = 9.0", "g_min_us = 90.0", "physics.g_min_us is not below g_max_us"),
        ("slm-wang2022", "nonnegative = true", "nonnegative = false", "dac.nonnegative is false"),
        ("mrr-16", "spacing_pm = 1000.0", "spacing_pm = 100.0", "physics.spacing_pm is below linewidth_pm"),
        ("mzi-64", 'mesh = "clements"', 'mesh = "net"', "physics.mesh: Invalid enum value 'net'"),
        ("sram-mc2ram", "mismatch = 0.0", "mismatch = 2.0", "physics.mismatch: Expected `float` <= 1.0"),
        ("ideal", 'compensation = "none"', 'compensation = "none"\nphysics = { a = 1 }', "unknown field `a`"),
        ("rram-neurram-wires", "word_ohm = 1.0", "word_ohm = 0.0", "wires.word_ohm: Expected `float` > 0"),
        ("pcm-generic", "t_read_s = 250e-9", "t_read_s = 21.0", "physics.t_read_s is above t0_s"),
        ("pcm-generic", "low = 0.049", "low = 0.2", "physics.drift_mean.low is above high"),
        ("pcm-generic", "program_us = [0.26348", "program_us = [-9.0", "physics.program_us is negative"),
        ("pcm-hermes", ", threshold = 0.0945", "", "physics.drift_mean.polynomial has no threshold"),
        ("pcm-hermes", "threshold = 0.16", "threshold = 2.0", "physics.read.threshold is above 1"),
        ("pcm-hermes", "[0.0123, 0.0211", "[-1.0, 0.0211", "physics.read.polynomial is negative"),
        ("rram-cmo", "t_read_s = 1e-6", "t_read_s = 2.5", "physics.t_read_s: Expected `float` <= 1.0"),
        ("rram-cmo", "g_min_us = 9.0", "g_min_us = 0.5", "physics.g_min_us: Expected `float` >= 1.0"),
        ("rram-cmo", "[0.0112185391", "[-5.0", "physics.program_us is negative"),
        ("rram-neurram", "g_max_us = 40.0", "g_max_us = 1e-9", "physics.relaxation.std_us is many times g_max_us"),
        ("flash-sonos", "[12.58037, 215.36557]", "[12.58037, 0.0]", "physics.read_na[1]: Expected `float` > 0"),
        ("mrr-16", "weight_bits = ", "weight_bits = 9", "physics.weight_bits: Expected `float` <= 64"),
        ("pcm-generic", "output_std = 0.06", "output_std = 12.0", "noise.output_std is not below adc.full_scale"),
        ("slm-wang2022", "photons = ", "photons = 1e-9 # ", "noise.photons is below 1e-06"),
        ("rram-neurram-wires", "g_max_us = 40.0", "g_max_us = 41.0", "wires.g_max_us is 41.0"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(target: str, old: str, new: str, says: str) -> None:
    text = find_profile(target)[1].decode()
    assert old in text
    with pytest.raises(ProfileError) as caught:
        decode_profile(text.replace(old, new, 1))
    assert says in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("text", [b"\xff\xfe", b"= nothing", b"", b"[array]\nrows = 1"])
def test_what_is_no_profile_is_refused(text: bytes) -> None:
    with pytest.raises(ProfileError):
        decode_profile(text, "x.toml")


def test_an_unknown_target_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="pcm-hermes"):
        load_profile("pcm-hermse")
    with pytest.raises(ProfileError):
        load_profile(str(tmp_path / "missing.toml"))


def test_a_profile_may_lie_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(find_profile("pcm-generic")[1].replace(b"pcm-generic", b"mine"))
    profile, text = find_profile(str(path))
    assert profile.name == "mine"
    assert text == path.read_bytes()


def test_an_unknown_substrate_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ProfileError, match="pcm"):
        load_substrate("phlogiston")
