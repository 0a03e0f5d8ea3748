"""Every byte of a bundle's ZIP that is not a file's content, as a function of names, sizes and checksums alone.

One form: stored, times fixed at 1980-01-01, plain files with mode 0644, each file's data at a multiple of 64 bytes
(the padding sits in an extra field with Android's zipalign id), ZIP64 records only where a number needs them.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "Entry", "Layout", "Placed", "lay_out"]

ALIGNMENT = 64

_U32 = 0xFFFFFFFF
_STORED, _FLAGS, _TIME, _DATE = 0, 0, 0, (1 << 5) | 1
_PLAIN, _ZIP64 = 20, 45
_UNIX = 3 << 8
_ATTRIBUTES = 0o100644 << 16
_ALIGN_ID, _ZIP64_ID = 0xD935, 0x0001

LOCAL = struct.Struct("<IHHHHHIIIHH")
CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
END = struct.Struct("<IHHHHIIH")
END64 = struct.Struct("<IQHHIIQQQQ")
LOCATOR = struct.Struct("<IIQI")
LOCAL_SIGNATURE, CENTRAL_SIGNATURE = 0x04034B50, 0x02014B50
END_SIGNATURE, END64_SIGNATURE, LOCATOR_SIGNATURE = 0x06054B50, 0x06064B50, 0x07064B50


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as the container knows it: name, size in bytes, CRC-32."""

    name: str
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry with its local header, that header's offset and its data's offset, in bytes of the container."""

    entry: Entry
    offset: int
    header: bytes
    data: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole container but for the data: the placed entries, and at `tail_offset` the directory and end records."""

    placed: tuple[Placed, ...]
    tail_offset: int
    tail: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole container."""
        return self.tail_offset + len(self.tail)


def lay_out(entries: Iterable[Entry]) -> Layout:
    """Return the canonical container of these entries, in the order given."""
    placed, offset = [], 0
    for entry in entries:
        header = _local_header(entry, offset)
        placed.append(Placed(entry, offset, header, offset + len(header)))
        offset += len(header) + entry.size
    directory = b"".join(map(_central_header, placed))
    return Layout(tuple(placed), offset, directory + _end(len(placed), len(directory), offset))


def _clip(value: int) -> int:
    return min(value, _U32)


def _wide(*values: int) -> bytes:
    """Return the ZIP64 extra field with those of `values` that 32 bits cannot say."""
    wide = [value for value in values if value >= _U32]
    return struct.pack(f"<HH{len(wide)}Q", _ZIP64_ID, 8 * len(wide), *wide) if wide else b""


def _local_header(entry: Entry, offset: int) -> bytes:
    name, size = entry.name.encode("ascii"), _clip(entry.size)
    wide = _wide(entry.size, entry.size)
    padding = -(offset + LOCAL.size + len(name) + len(wide) + 6) % ALIGNMENT
    extra = wide + struct.pack("<HHH", _ALIGN_ID, 2 + padding, ALIGNMENT) + bytes(padding)
    version = _ZIP64 if wide else _PLAIN
    fixed = LOCAL.pack(
        LOCAL_SIGNATURE, version, _FLAGS, _STORED, _TIME, _DATE, entry.crc32, size, size, len(name), len(extra)
    )
    return fixed + name + extra


def _central_header(placed: Placed) -> bytes:
    entry = placed.entry
    name, size = entry.name.encode("ascii"), _clip(entry.size)
    wide = _wide(entry.size, entry.size, placed.offset)
    version = _ZIP64 if wide else _PLAIN
    fixed = CENTRAL.pack(
        *(CENTRAL_SIGNATURE, _UNIX | version, version, _FLAGS, _STORED, _TIME, _DATE, entry.crc32, size, size),
        *(len(name), len(wide), 0, 0, 0, _ATTRIBUTES, _clip(placed.offset)),
    )
    return fixed + name + wide


def _end(count: int, size: int, offset: int) -> bytes:
    wide = b""
    if offset >= _U32:
        wide = END64.pack(END64_SIGNATURE, END64.size - 12, _UNIX | _ZIP64, _ZIP64, 0, 0, count, count, size, offset)
        wide += LOCATOR.pack(LOCATOR_SIGNATURE, 0, offset + size, 1)
    return wide + END.pack(END_SIGNATURE, 0, 0, count, count, size, _clip(offset), 0)
