from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hyle_bundle.container import ContainerError, Member, read_container, write_container
from hyle_bundle.content import InputError, measure
from hyle_bundle.layout import Entry, lay_out
from hyle_bundle.names import FileNameError, canonical_order, check_names

CONTENT = {"bundle.json": b"{}", "b.onnx": b"12345" * 30, "a/x.onnx": b"", "signature.dsse.json": b"sig"}


def members(content: dict[str, bytes]) -> dict[str, Member]:
    return {name: Member(data, measure(data)) for name, data in content.items()}


def container(entries: list[tuple[str, bytes]]) -> bytearray:
    """A container with exactly these entries in this order, whether or not a reader should take them."""
    layout = lay_out(Entry(name, len(data), zlib.crc32(data)) for name, data in entries)
    body = b"".join(placed.header + data for placed, (_, data) in zip(layout.placed, entries, strict=True))
    return bytearray(body + layout.tail)


@pytest.fixture
def small(tmp_path: Path) -> bytes:
    write_container(tmp_path / "c.hyle", members(CONTENT))
    return (tmp_path / "c.hyle").read_bytes()


def refused(data: bytes | bytearray, reason: str = "not canonical") -> None:
    with pytest.raises(ContainerError, match=reason) as caught:
        read_container(memoryview(bytes(data)), "c.hyle")
    assert "container c.hyle" in caught.value.message


def test_manifest_comes_first_signature_last_and_data_is_aligned(small: bytes) -> None:
    placed = read_container(memoryview(small), "c.hyle")
    assert [p.entry.name for p in placed] == ["bundle.json", "a/x.onnx", "b.onnx", "signature.dsse.json"]
    assert all(p.data % 64 == 0 for p in placed)
    assert {p.entry.name: small[p.data : p.data + p.entry.size] for p in placed} == CONTENT


def test_any_zip_tool_opens_it(tmp_path: Path, small: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "c.hyle") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == CONTENT
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.skipif(shutil.which("unzip") is None, reason="Info-ZIP's unzip is not installed")
def test_info_zip_finds_nothing_wrong(tmp_path: Path, small: bytes) -> None:
    done = subprocess.run(["unzip", "-t", tmp_path / "c.hyle"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No errors" in done.stdout
    assert done.stderr == ""


def test_the_order_in_which_files_are_given_does_not_matter(tmp_path: Path, small: bytes) -> None:
    write_container(tmp_path / "d.hyle", members(dict(reversed(CONTENT.items()))))
    assert (tmp_path / "d.hyle").read_bytes() == small


def test_a_container_cut_anywhere_is_refused(small: bytes) -> None:
    for length in range(len(small)):
        refused(small[:length])


def test_bytes_before_behind_or_between_are_refused(small: bytes) -> None:
    placed = read_container(memoryview(small), "c.hyle")
    for at in (0, placed[1].offset, placed[1].data, len(small) - 22, len(small)):
        refused(small[:at] + b"\0" + small[at:])


def test_every_bit_outside_the_data_is_canonical(small: bytes) -> None:
    data = {at for p in read_container(memoryview(small), "c") for at in range(p.data, p.data + p.entry.size)}
    for at in range(len(small)):
        for bit in range(8):
            if at not in data:
                bad = bytearray(small)
                bad[at] ^= 1 << bit
                refused(bad)


def test_a_zip_of_another_tool_is_refused(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "z", "w", method) as archive:
            archive.writestr("bundle.json", b"{}" * 100)
        refused((tmp_path / "z").read_bytes())


def test_a_symbolic_link_is_refused(small: bytes) -> None:
    bad = bytearray(small)
    at = small.rindex(b"PK\1\2") + 38
    struct.pack_into("<I", bad, at, 0o120777 << 16)
    refused(bad, "directory deviates")


def test_a_comment_is_refused(small: bytes) -> None:
    refused(small[:-2] + struct.pack("<H", 3) + b"hey", "end record")


@pytest.mark.parametrize("size", [0xFFFFFFFE, 1 << 20, 0xFFFFFFFF])
def test_a_directory_that_claims_huge_files_is_refused_without_reading_them(small: bytes, size: int) -> None:
    bad = bytearray(small)
    at = small.index(b"PK\1\2")
    struct.pack_into("<II", bad, at + 20, size, size)
    refused(bad)


def test_a_zip64_size_in_a_small_file_is_refused(small: bytes) -> None:
    at = small.index(b"PK\1\2")
    bad = bytearray(small)
    struct.pack_into("<II", bad, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", bad, at + 30, 20)
    name_end = at + 46 + len("bundle.json")
    bad[name_end:name_end] = struct.pack("<HHQQ", 1, 16, 1 << 62, 1 << 62)
    struct.pack_into("<I", bad, len(bad) - 10, struct.unpack_from("<I", small, len(small) - 10)[0] + 20)
    refused(bad, "its directory asks for 46116860184273")


@pytest.mark.parametrize("count", [0, 3, 5, 4097, 0xFFFF])
def test_an_end_record_with_a_wrong_count_is_refused(small: bytes, count: int) -> None:
    bad = bytearray(small)
    struct.pack_into("<HH", bad, len(bad) - 14, count, count)
    refused(bad)


def test_an_end_record_that_points_outside_is_refused(small: bytes) -> None:
    for at, value in ((10, 0xFFFFFFFE), (10, len(small) * 2), (6, len(small)), (6, 0xFFFFFFFF)):
        bad = bytearray(small)
        struct.pack_into("<I", bad, len(bad) - at, value)
        refused(bad)


def test_an_end_record_that_asks_for_an_absent_zip64_record_is_refused() -> None:
    refused(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 60, 0xFFFFFFFF, 0), "end record lies")
    refused(bytes(200) + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 60, 0xFFFFFFFF, 0), "ZIP64 end record")


@pytest.mark.parametrize(
    "names",
    [
        ["../evil"],
        ["a/../../evil"],
        ["/etc/passwd"],
        ["a//b"],
        ["a/"],
        ["./a"],
        ["."],
        [".hidden"],
        ["a\\b"],
        ["C:/a"],
        ["a b"],
        ["a\n"],
        ["a\0b"],
        [""],
        ["a" * 256],
        ["same", "same"],
        ["Same", "same"],
        ["a", "a/b"],
        ["A", "a/b"],
    ],
)
def test_unsafe_names_are_refused_on_both_sides(tmp_path: Path, names: list[str]) -> None:
    if len(set(names)) == len(names):
        with pytest.raises(FileNameError):
            write_container(tmp_path / "c.hyle", members({**dict.fromkeys(names, b""), "bundle.json": b"{}"}))
        assert list(tmp_path.iterdir()) == []
    refused(container([("bundle.json", b"{}"), *((name, b"") for name in sorted(names))]))


def test_a_name_beyond_ascii_is_refused(small: bytes, tmp_path: Path) -> None:
    with pytest.raises(FileNameError):
        write_container(tmp_path / "c.hyle", members({"bundle.json": b"{}", "é": b""}))
    refused(small.replace(b"b.onnx", b"b\xffonnx"), "cannot be read")


def test_too_many_files_are_refused() -> None:
    check_names([f"f{i}" for i in range(4096)])
    with pytest.raises(FileNameError, match="4097 files"):
        check_names([f"f{i}" for i in range(4097)])


def test_files_out_of_order_are_refused() -> None:
    refused(container([("b", b""), ("bundle.json", b"{}")]), "out of order")
    refused(container([("bundle.json", b"{}"), ("signature.dsse.json", b""), ("a", b"")]), "out of order")
    assert canonical_order(["signature.dsse.json", "z", "bundle.json", "a/b", "a.b"])[1:4] == ["a.b", "a/b", "z"]


@pytest.mark.parametrize("sizes", [[5 << 30, 10, 0], [10, (1 << 32) - 1, 3], [(1 << 32) - 2, 1], [3 << 30, 3 << 30, 7]])
def test_beyond_four_gibibytes_zip64_records_appear_and_python_agrees(tmp_path: Path, sizes: list[int]) -> None:
    names = ["bundle.json", "m.onnx", "z.onnx"]
    layout = lay_out(map(Entry, names, sizes, [zlib.crc32(bytes(size)) if size < 99 else 0 for size in sizes]))
    path = tmp_path / "sparse.hyle"
    with path.open("wb") as file:
        for placed in layout.placed:
            file.seek(placed.offset)
            file.write(placed.header)
        file.seek(layout.tail_offset)
        file.write(layout.tail)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as view:
            placed = read_container(view, path.name)
        assert placed == layout.placed
    with zipfile.ZipFile(path) as archive:
        assert [info.file_size for info in archive.infolist()] == sizes
        assert [info.header_offset for info in archive.infolist()] == [p.offset for p in placed]
        for info in archive.infolist():
            with archive.open(info) as file:
                assert file.read(1) == b"\0"[: info.file_size]
    tail = bytearray(layout.tail)
    for at in range(len(tail)):
        tail[at] ^= 0x10
        with path.open("r+b") as file:
            file.seek(layout.tail_offset)
            file.write(tail)
        tail[at] ^= 0x10
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
            pytest.raises(ContainerError),
        ):
            read_container(view, path.name)


def test_a_file_that_changes_while_it_is_bundled_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    changes: list[Callable[[], object]] = [
        lambda: source.write_bytes(b"later"),
        lambda: source.write_bytes(b"12"),
        lambda: source.write_bytes(b"12345678"),
        source.unlink,
    ]
    for change in changes:
        source.write_bytes(b"first")
        measured = members({"bundle.json": b"{}"}) | {"m.onnx": Member(source, measure(source))}
        change()
        with pytest.raises(InputError, match=r"m\.onnx"):
            write_container(tmp_path / "c.hyle", measured)
        assert not (tmp_path / "c.hyle").exists()
    assert list(tmp_path.iterdir()) == []
