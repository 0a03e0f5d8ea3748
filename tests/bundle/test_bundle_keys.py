from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hyle_bundle.keys import KeyFileError, generate_key, load_private_key, load_public_key, read_passphrase


def test_a_new_key_is_private_and_reads_back(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        pair = generate_key("release", tmp_path)
    finally:
        os.umask(previous)
    assert (pair.private.name, pair.public.name) == ("release.key", "release.pub")
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    assert b"PRIVATE KEY" not in pair.public.read_bytes()
    private, public = load_private_key(pair.private), load_public_key(pair.public)
    assert private.public == public
    assert public.fingerprint == pair.fingerprint
    secret = private._key.private_bytes_raw()
    assert secret.hex() not in repr(private)
    assert repr(secret) not in repr(private)


def test_a_passphrase_is_needed_exactly_when_there_is_one(tmp_path: Path) -> None:
    locked = generate_key("locked", tmp_path, b"open sesame")
    plain = generate_key("plain", tmp_path)
    assert load_private_key(locked.private, b"open sesame").public == load_public_key(locked.public)
    assert b"ENCRYPTED" in locked.private.read_bytes()
    for path, passphrase, reason in (
        (locked.private, None, "needs a passphrase"),
        (locked.private, b"wrong", "passphrase is wrong"),
        (plain.private, b"open sesame", "not encrypted"),
    ):
        with pytest.raises(KeyFileError, match=reason):
            load_private_key(path, passphrase)
    with pytest.raises(KeyFileError, match="empty"):
        generate_key("third", tmp_path, b"")


def test_nothing_is_overwritten_and_no_half_pair_is_left(tmp_path: Path) -> None:
    pair = generate_key("k", tmp_path)
    before = pair.private.read_bytes(), pair.public.read_bytes()
    with pytest.raises(KeyFileError, match="already there"):
        generate_key("k", tmp_path)
    assert before == (pair.private.read_bytes(), pair.public.read_bytes())
    (tmp_path / "half.pub").write_text("mine")
    with pytest.raises(KeyFileError, match=r"half\.pub is already there"):
        generate_key("half", tmp_path)
    assert not (tmp_path / "half.key").exists()
    (tmp_path / "link.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError):
        generate_key("link", tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["", "../k", "a/b", ".k", "-k", "k\n", "k" * 129, "ключ"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="cannot name a key"):
        generate_key(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        generate_key("k", tmp_path / "absent")


def test_a_full_disk_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        generate_key("k", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660])
def test_a_private_key_that_others_may_read_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, mode: int
) -> None:
    pair = generate_key("k", tmp_path)
    pair.private.chmod(mode)
    with pytest.raises(KeyFileError, match="Others") as caught:
        load_private_key(pair.private)
    assert caught.value.remedy == f"Run: chmod 600 {pair.private}"


def test_the_wrong_file_and_the_wrong_kind_of_key_are_told_apart(tmp_path: Path) -> None:
    pair = generate_key("k", tmp_path)
    curve = ec.generate_private_key(ec.SECP256R1())
    foreign = {
        "ec.key": curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "ec.pub": curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "raw.key": ed25519.Ed25519PrivateKey.generate().private_bytes_raw(),
        "noise.key": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "noise.pub": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "long.key": bytes(1 << 17),
    }
    for name, data in foreign.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    pair.public.chmod(0o600)
    cases: list[tuple[Callable[[Path], object], str, str]] = [
        (load_private_key, "k.pub", "is a public key"),
        (load_private_key, "ec.key", "not an Ed25519 key"),
        (load_private_key, "raw.key", "no private key in PEM form"),
        (load_private_key, "noise.key", "no private key in PEM form"),
        (load_private_key, "long.key", "too large"),
        (load_private_key, "absent.key", "No such file"),
        (load_public_key, "k.key", "is a private key"),
        (load_public_key, "ec.pub", "not an Ed25519 key"),
        (load_public_key, "noise.pub", "no public key in PEM form"),
        (load_public_key, "raw.key", "no public key in PEM form"),
        (load_public_key, "absent.pub", "No such file"),
    ]
    for load, name, reason in cases:
        with pytest.raises(KeyFileError, match=reason) as caught:
            load(tmp_path / name)
        assert name in caught.value.message
        assert caught.value.exit_code == 2


def test_a_passphrase_file_gives_its_first_line_and_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(b"open sesame\nsecond line\n")
    path.chmod(0o600)
    assert read_passphrase(path) == b"open sesame"
    path.write_bytes(b"\n")
    with pytest.raises(KeyFileError, match="empty"):
        read_passphrase(path)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="Others"):
        read_passphrase(path)
