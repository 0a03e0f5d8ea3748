from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hyle_bundle import open_bundle

from hyle.cli import main

Write = Callable[..., Path]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    def run(*arguments: object) -> tuple[int, Any, str]:
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else None, said.err

    return run


def test_a_key_is_made_a_bundle_signed_and_verified(
    tmp_path: Path, bundle_at: Write, call: Callable[..., tuple[int, Any, str]]
) -> None:
    path = bundle_at(signed=False)
    code, made, _ = call("keys", "new", "release", "--dir", tmp_path, "--json")
    assert code == 0
    code, signed, _ = call("sign", path, "--key", made["private"], "--json")
    assert code == 0
    assert signed["signer"] == made["fingerprint"]
    code, verified, _ = call("verify", path, "--trust", made["public"], "--json")
    assert code == 0
    with open_bundle(path) as bundle:
        assert verified == {
            "bundle": str(path),
            "name": "lenet",
            "version": "1.0.0",
            "digest": bundle.digest,
            "signer": made["fingerprint"],
            "trusted": True,
            "files": 11,
            "bytes": path.stat().st_size,
        }
        assert signed["digest"] == bundle.digest


def test_people_get_sentences(tmp_path: Path, bundle_at: Write, call: Callable[..., tuple[int, Any, str]]) -> None:
    path, secret = bundle_at(signed=False), tmp_path / "secret"
    secret.write_text("open sesame\n")
    secret.chmod(0o600)
    code, out, said = call("keys", "new", "k", "--dir", tmp_path, "--passphrase-file", secret)
    assert (code, out) == (0, None)
    assert "keep it secret" in said
    assert "signer none" in call("verify", path)[2]
    assert "needs a passphrase" in call("sign", path, "--key", tmp_path / "k.key")[2]
    assert "signed" in call("sign", path, "--key", tmp_path / "k.key", "--passphrase-file", secret)[2]
    assert "name the keys you trust" in call("verify", path)[2]
    assert "(trusted)" in call("verify", path, "--trust", tmp_path / "k.pub")[2]


def test_what_does_not_hold_exits_with_two_and_a_remedy(
    tmp_path: Path, bundle_at: Write, call: Callable[..., tuple[int, Any, str]]
) -> None:
    call("keys", "new", "k", "--dir", tmp_path)
    unsigned, other = bundle_at(signed=False), bundle_at()
    bent = tmp_path / "bent.hyle"
    bent.write_bytes(other.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments, reason in (
        (("verify", unsigned, "--trust", tmp_path / "k.pub"), "not signed"),
        (("verify", other, "--trust", tmp_path / "k.pub"), "not trusted"),
        (("verify", bent), "container"),
        (("verify", tmp_path / "absent"), "No such file"),
        (("verify", other, "--trust", tmp_path / "k.key"), "private key"),
        (("sign", bent, "--key", tmp_path / "k.key"), "container"),
        (("sign", unsigned, "--key", tmp_path / "k.pub"), "Others"),
        (("keys", "new", "k", "--dir", tmp_path), "already there"),
        (("keys", "new", "../k"), "cannot name"),
    ):
        code, document, said = call(*arguments, "--json")
        assert code == 2
        assert reason in document["error"]
        assert document["remedy"] in said
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
