"""The fuzzing targets on mutations of sound inputs, without a fuzzer: a short form of `fuzz/run.py`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from agent_fakes import make_bundle, manifest_of
from hyle_bundle import generate_key, load_private_key, open_bundle
from hyle_bundle.manifest import encode_manifest
from hyle_protos.inference import inference_pb2 as pb
from hyle_substrates import profile

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "fuzz"))

from targets import TARGETS  # noqa: E402

ROUNDS = {"bundle": 400, "profile": 400}


def seeds(folder: Path) -> dict[str, bytes]:
    generate_key("me", folder)
    path = make_bundle(folder, 1, key=load_private_key(folder / "me.key"), padding=100)
    request = pb.ModelInferRequest(model_name="m", id="1", raw_input_contents=[b"\0" * 16])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    with open_bundle(path) as bundle:
        signature = bytes(bundle.signature_bytes or b"")
    profiles = Path(profile.__file__).parent / "profiles"
    return {
        "request": request.SerializeToString(),
        "manifest": encode_manifest(manifest_of("m", 1)),
        "signature": signature,
        "bundle": path.read_bytes(),
        "profile": (profiles / "pcm-hermes.toml").read_bytes(),
        "command": b"\x08\x01\x12\x1a\x0a\x14Node Control/Rebirth\x20\x0b\x70\x01",
    }


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
def test_nothing_but_a_refusal_comes_of_bytes_from_outside(name: str, tmp_path: Path) -> None:
    seed, chance = seeds(tmp_path)[name], random.Random(name)
    TARGETS[name](seed)
    TARGETS[name](b"")
    for _ in range(ROUNDS.get(name, 3000)):
        TARGETS[name](mutated(seed, chance))
