from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import hyle_bundle
import pytest
from hyle_bundle import (
    BundleError,
    Manifest,
    ManifestError,
    PrivateKey,
    TensorFile,
    encode_manifest,
    open_bundle,
    sign_bundle,
    write_bundle,
)
from hyle_bundle.atomic import OutputError
from hyle_bundle.checks import MAX_METADATA_BYTES
from hyle_bundle.container import Member, write_container
from hyle_bundle.content import InputError, measure
from hyle_bundle.manifest import FileEntry
from hyle_bundle.names import FileNameError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Files = Mapping[str, Path | bytes]
Write = Callable[..., Path]

part = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)
# One folder level of its own keeps a drawn name from being both a file and a folder.
paths = st.one_of(part.map(lambda name: f"f-{name}"), st.tuples(part, part).map(lambda two: f"d-{two[0]}/{two[1]}"))
file_maps = st.dictionaries(paths, st.binary(max_size=300), max_size=8).filter(
    lambda files: len({name.lower() for name in files}) == len(files)
)


def content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def forged(path: Path, contents: Mapping[str, bytes]) -> Path:
    write_container(path, {name: Member(data, measure(data)) for name, data in contents.items()})
    return path


def unpacked(path: Path) -> dict[str, bytes]:
    with open_bundle(path) as bundle:
        return {name: bytes(bundle.read(name)) for name in bundle.names}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=file_maps, signed=st.booleans())
def test_any_file_map_comes_back(
    tmp_path: Path, manifest: Manifest, key: PrivateKey, files: dict[str, bytes], signed: bool
) -> None:
    digest = write_bundle(tmp_path / "b.hyle", manifest, files, key if signed else None)
    with open_bundle(tmp_path / "b.hyle", [key.public] if signed else None) as bundle:
        assert bundle.digest == digest
        assert {name: bytes(bundle.read(name)) for name in files} == files
        extras = {"bundle.json", "signature.dsse.json"} if signed else {"bundle.json"}
        assert set(bundle.names) == set(files) | extras
        assert bundle.signer == (key.public.fingerprint if signed else None)
        assert (bundle.signature_bytes is not None) == signed
        assert all(bundle.offset(name) % 64 == 0 for name in bundle.names)
        assert {name: entry.size for name, entry in bundle.manifest.files.items()} == {
            n: len(d) for n, d in files.items()
        }


@pytest.mark.parametrize("signed", [False, True])
def test_two_writes_give_identical_bytes(
    tmp_path: Path, manifest: Manifest, files: Files, key: PrivateKey, signed: bool
) -> None:
    signer = key if signed else None
    first = write_bundle(tmp_path / "1", manifest, files, signer)
    in_memory = {name: content(source) for name, source in reversed(files.items())}
    assert write_bundle(tmp_path / "2", manifest, in_memory, signer) == first
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_signing_later_gives_the_bytes_of_signing_at_once(bundle_at: Write, key: PrivateKey) -> None:
    signed, unsigned = bundle_at(), bundle_at(signed=False)
    before = open_bundle(unsigned).digest
    assert sign_bundle(unsigned, key) == before
    assert unsigned.read_bytes() == signed.read_bytes()
    sign_bundle(unsigned, key)
    assert unsigned.read_bytes() == signed.read_bytes()


def test_a_bundle_has_what_its_files_had(bundle_at: Write, files: Files) -> None:
    with open_bundle(bundle_at()) as bundle:
        assert bundle.names[0] == "bundle.json"
        assert bundle.names[-1] == "signature.dsse.json"
        assert bundle.manifest_bytes == bytes(bundle.read("bundle.json")) == encode_manifest(bundle.manifest)
        for name, source in files.items():
            assert bytes(bundle.read(name)) == content(source)
        assert bundle.read("program.onnx").readonly
        with pytest.raises(BundleError, match=r"no file 'nope'") as caught:
            bundle.read("nope")
        assert "program.onnx" in caught.value.remedy


def test_views_outlive_the_bundle(bundle_at: Write) -> None:
    with open_bundle(bundle_at()) as bundle:
        view = bundle.read("report.json")
        array = TensorFile(bundle.read("programming.safetensors")).array("dense/levels")
        wanted = array.tolist()
    del bundle
    gc.collect()
    assert bytes(view) == b"{}\n"
    assert array.tolist() == wanted


def test_a_bundle_that_was_closed_cannot_be_read(bundle_at: Write) -> None:
    bundle = open_bundle(bundle_at())
    bundle.close()
    with pytest.raises(ValueError, match="released"):
        bundle.read("report.json")


def test_a_missing_an_extra_and_a_swapped_file_are_refused_by_name(tmp_path: Path, bundle_at: Write) -> None:
    whole = unpacked(bundle_at(signed=False))
    for bad, message in (
        ({name: data for name, data in whole.items() if name != "twin.onnx"}, r"lacks twin\.onnx"),
        ({**whole, "extra.bin": b""}, r"unlisted file extra\.bin"),
        ({**whole, "twin.onnx": whole["program.onnx"]}, r"twin\.onnx in .* size differs"),
        ({**whole, "twin.onnx": bytes(len(whole["twin.onnx"]))}, r"twin\.onnx in .* SHA-256 differs"),
        ({name: data for name, data in whole.items() if name != "bundle.json"}, r"has no bundle\.json"),
        ({**whole, "bundle.json": b"{}"}, r"bundle\.json is not a manifest"),
        ({**whole, "bundle.json": whole["bundle.json"] + b"\n"}, "canonical form"),
        ({**whole, "bundle.json": whole["bundle.json"].replace(b'"seed": 0', b'"seed":  0')}, "canonical form"),
    ):
        with pytest.raises((BundleError, ManifestError), match=message):
            open_bundle(forged(tmp_path / "forged.hyle", bad))


def test_hashing_can_be_put_off_and_nothing_else(tmp_path: Path, bundle_at: Write) -> None:
    whole = unpacked(bundle_at())
    altered = forged(tmp_path / "a", {**whole, "twin.onnx": bytes(len(whole["twin.onnx"]))})
    assert open_bundle(altered, verify_payload=False).manifest.name == "lenet"
    short = forged(tmp_path / "b", {**whole, "twin.onnx": b""})
    with pytest.raises(BundleError, match=r"twin\.onnx"):
        open_bundle(short, verify_payload=False)
    flipped = bytearray(altered.read_bytes())
    flipped[open_bundle(altered, verify_payload=False).offset("bundle.json") + 5] ^= 1
    (tmp_path / "c").write_bytes(flipped)
    with pytest.raises(BundleError, match=r"bundle\.json in c"):
        open_bundle(tmp_path / "c", verify_payload=False)


def test_an_oversize_manifest_is_refused_before_it_is_read(tmp_path: Path, bundle_at: Write) -> None:
    whole = unpacked(bundle_at(signed=False))
    for name in ("bundle.json", "signature.dsse.json"):
        bad = forged(tmp_path / "big.hyle", {**whole, name: bytes(MAX_METADATA_BYTES + 1)})
        with pytest.raises(BundleError, match=f"{name} in big.hyle is larger"):
            open_bundle(bad)


def test_a_manifest_too_large_is_not_written(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyle_bundle.writer.MAX_METADATA_BYTES", 100)
    with pytest.raises(BundleError, match="more than 100 bytes"):
        write_bundle(tmp_path / "b.hyle", manifest, {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bundle_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (
        ("empty", "empty"),
        ("fifo", "no plain file"),
        ("none", "No such file"),
        (".", "no plain file"),
    ):
        with pytest.raises(BundleError, match=reason) as caught:
            open_bundle(tmp_path / name)
        assert caught.value.exit_code == 2
        assert caught.value.remedy


def test_reserved_and_unsafe_names_and_unreadable_files_are_not_written(tmp_path: Path, manifest: Manifest) -> None:
    for files, error in (
        ({"bundle.json": b""}, BundleError),
        ({"signature.dsse.json": b""}, BundleError),
        ({"../evil": b""}, FileNameError),
        ({"Bundle.json": b""}, FileNameError),
        ({"a.onnx": tmp_path / "absent"}, InputError),
        ({"a.onnx": tmp_path}, InputError),
    ):
        with pytest.raises(error):
            write_bundle(tmp_path / "b.hyle", manifest, files)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_from_outside_cannot_name_unsafe_files(manifest: Manifest) -> None:
    import msgspec

    for name in ("../evil", "/etc/passwd", "bundle.json", "a\n"):
        bad = encode_manifest(msgspec.structs.replace(manifest, files={name: FileEntry(0, "0" * 64)}))
        with pytest.raises(ManifestError):
            hyle_bundle.decode_manifest(bad)
    for field, value in (("name", "a\n"), ("version", "1\n"), ("source_sha256", "0" * 64 + "\n"), ("name", "../a")):
        with pytest.raises(ManifestError, match=field):
            hyle_bundle.decode_manifest(encode_manifest(msgspec.structs.replace(manifest, **{field: value})))


def test_extraction_writes_every_file_read_only_or_nothing(tmp_path: Path, bundle_at: Write, files: Files) -> None:
    out = tmp_path / "out"
    with open_bundle(bundle_at()) as bundle:
        bundle.extract(out)
        names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        assert names == set(bundle.names)
        for name in names:
            assert (out / name).read_bytes() == bytes(bundle.read(name))
            assert stat.S_IMODE((out / name).stat().st_mode) == 0o444
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        for target in (out, tmp_path / "absent" / "out"):
            with pytest.raises(OutputError, match="cannot be extracted"):
                bundle.extract(target)
        assert set(tmp_path.rglob("*")) == set(before)
        (tmp_path / "hollow").mkdir()
        bundle.extract(tmp_path / "hollow")
        assert (tmp_path / "hollow" / "bundle.json").exists()


def test_opening_and_writing_hold_no_payload_in_memory(tmp_path: Path, manifest: Manifest) -> None:
    script = """
import sys
from pathlib import Path
from hyle_bundle import PrivateKey, decode_manifest, open_bundle, write_bundle
import hyle_bundle.keys, hyle_bundle.signature
folder = Path(sys.argv[1])
manifest = decode_manifest((folder / "bundle.json").read_bytes())
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
start = peak()
write_bundle(folder / "b.hyle", manifest, {"program.onnx": folder / "payload"})
wrote = peak()
bundle = open_bundle(folder / "b.hyle")
opened = peak()
print(wrote - start, opened - wrote, len(bundle.read("program.onnx")))
"""
    size = 128 << 20
    (tmp_path / "bundle.json").write_bytes(encode_manifest(manifest))
    with (tmp_path / "payload").open("wb") as file:
        file.truncate(size)
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True, timeout=120)
    writing_kib, opening_kib, length = map(int, done.stdout.split())
    assert length == size
    # Writing holds 1 MiB chunks and buffers, opening an 8 MiB window of the map and the page tables that it faults in.
    assert writing_kib < 16 << 10
    assert opening_kib < 24 << 10


def test_the_package_loads_its_parts_only_when_asked() -> None:
    script = "import sys, hyle_bundle; assert 'cryptography' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    for name in hyle_bundle.__all__:
        assert getattr(hyle_bundle, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        hyle_bundle.nothing  # noqa: B018
