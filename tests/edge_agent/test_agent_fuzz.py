"""The fuzzing targets on mutations of sound inputs, without a fuzzer: a short form of `fuzz/run.py`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "fuzz"))

from corpus import kept  # noqa: E402
from seeds import seeds  # noqa: E402
from targets import TARGETS  # noqa: E402

ROUNDS = {"bundle": 400, "profile": 400}


def mutated(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(5)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 2:
            del out[at : at + chance.randrange(1, 40)]
        elif kind == 3:
            out[at : at + 8] = chance.choice([b"\xff" * 8, b"\0" * 8, (2**63 - 1).to_bytes(8, "little")])
        else:
            out[at:at] = out[: chance.randrange(60)]
    return bytes(out)


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_found_before_is_answered_or_refused(name: str) -> None:
    """The corpus that `make fuzz` keeps: together these inputs reach all the code that any input reached."""
    inputs = kept(name)
    assert inputs
    for data in inputs:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_a_refusal_comes_of_bytes_from_outside(name: str, tmp_path: Path) -> None:
    seed, chance = seeds(tmp_path)[name], random.Random(name)
    TARGETS[name](seed)
    TARGETS[name](b"")
    for _ in range(ROUNDS.get(name, 3000)):
        TARGETS[name](mutated(seed, chance))
