from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hyle_bundle import SignatureError, open_bundle
from hyle_bundle.container import ContainerError, Member, write_container
from hyle_bundle.content import measure
from hyle_bundle.layout import Entry, lay_out
from hyle_errors import CallerError

TRIES = 5000


def owners(path: Path) -> Callable[[int], str]:
    """Say whose byte an offset is: a file's name, or "container"."""
    with open_bundle(path) as bundle:
        spans = [(bundle.offset(name), bundle.offset(name) + len(bundle.read(name)), name) for name in bundle.names]
    starts = [start for start, _, _ in spans]

    def owner(offset: int) -> str:
        index = bisect.bisect_right(starts, offset) - 1
        while index >= 0 and spans[index][0] <= offset:
            if offset < spans[index][1]:
                return spans[index][2]
            index -= 1
        return "container"

    return owner


@contextmanager
def flipped(path: Path, offset: int, mask: int) -> Iterator[None]:
    for _ in ("before", "after"):
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ mask]))
        if _ == "before":
            yield


@pytest.mark.parametrize("signed", [True, False])
def test_every_single_byte_corruption_is_refused_and_named(bundle_at: Callable[..., Path], signed: bool) -> None:
    path = bundle_at(signed=signed)
    owner, size, rng = owners(path), path.stat().st_size, random.Random(20)
    # Every byte once, so that all files and all headers are met, and the rest of the tries anywhere.
    offsets = [*range(size), *(rng.randrange(size) for _ in range(max(0, TRIES - size)))]
    hit: dict[str, int] = {}
    for offset in offsets:
        named = owner(offset)
        with flipped(path, offset, rng.randrange(1, 256)), pytest.raises(CallerError) as caught:
            open_bundle(path)
        assert named in caught.value.message, (offset, caught.value.message)
        assert isinstance(caught.value, ContainerError) == (named == "container")
        hit[named] = hit.get(named, 0) + 1
    assert sum(hit.values()) >= 2000
    with open_bundle(path) as bundle:
        assert set(hit) == {"container"} | {name for name in bundle.names if len(bundle.read(name))}


def test_corruptions_whose_checksums_were_mended_are_refused_too(
    tmp_path: Path, bundle_at: Callable[..., Path]
) -> None:
    """Someone who edits a file and rebuilds the container around it still meets the digests and the signature."""
    with open_bundle(bundle_at()) as bundle:
        whole = {name: bytes(bundle.read(name)) for name in bundle.names}
    rng, path = random.Random(21), tmp_path / "mended.hyle"
    for name in [name for name, data in whole.items() if data for _ in range(30)]:
        bad = bytearray(whole[name])
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        contents = {**whole, name: bytes(bad)}
        write_container(path, {each: Member(data, measure(data)) for each, data in contents.items()})
        with pytest.raises(CallerError, match=name if name != "bundle.json" else "signs another bundle.json") as caught:
            open_bundle(path)
        assert isinstance(caught.value, SignatureError) == (name in {"bundle.json", "signature.dsse.json"})


def test_a_container_whose_checksum_lies_twice_is_refused(tmp_path: Path, bundle_at: Callable[..., Path]) -> None:
    with open_bundle(bundle_at()) as bundle:
        members = {name: Member(bytes(bundle.read(name)), measure(bundle.read(name))) for name in bundle.names}
    entries = [Entry(name, member.content.size, member.content.crc32) for name, member in members.items()]
    for index, entry in enumerate(entries):
        lying = [*entries[:index], Entry(entry.name, entry.size, entry.crc32 ^ 1), *entries[index + 1 :]]
        layout = lay_out(lying)
        parts = [placed.header + bytes(members[placed.entry.name].source) for placed in layout.placed]
        (tmp_path / "lie.hyle").write_bytes(b"".join(parts) + layout.tail)
        with pytest.raises(CallerError, match=f"{entry.name} in lie.hyle .* CRC-32 differs"):
            open_bundle(tmp_path / "lie.hyle")


@pytest.mark.parametrize("signed", [True, False])
def test_a_bundle_cut_at_any_structural_boundary_or_elsewhere_is_refused(
    tmp_path: Path, bundle_at: Callable[..., Path], signed: bool
) -> None:
    path = bundle_at(signed=signed)
    data = path.read_bytes()
    with open_bundle(path) as bundle:
        edges = {
            at for name in bundle.names for at in (bundle.offset(name), bundle.offset(name) + len(bundle.read(name)))
        }
    edges |= {at for at in range(len(data)) if data[at : at + 2] == b"PK"} | set(range(0, len(data), 41))
    lengths = sorted({at + step for at in edges for step in (-1, 0, 1)} & set(range(len(data))))
    cut = tmp_path / "cut.hyle"
    for length in lengths:
        cut.write_bytes(data[:length])
        with pytest.raises(CallerError, match=r"container|empty"):
            open_bundle(cut)
