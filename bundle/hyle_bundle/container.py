"""The container of a bundle: a ZIP of which every byte outside the files' data follows from names, sizes and CRCs.

The writer produces that one form; the reader derives it again from the central directory and compares all of it,
so that nothing can hide in a header, a gap, a comment or a second directory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hyle_errors import CallerError

from hyle_bundle.atomic import replacing
from hyle_bundle.content import Content, InputError, Source, chunks
from hyle_bundle.layout import (
    CENTRAL,
    CENTRAL_SIGNATURE,
    END,
    END64,
    END64_SIGNATURE,
    END_SIGNATURE,
    LOCATOR,
    Entry,
    Layout,
    Placed,
    lay_out,
)
from hyle_bundle.names import MAX_FILES, MAX_NAME_BYTES, FileNameError, canonical_order, check_names

__all__ = ["ContainerError", "Member", "read_container", "write_container"]

_U32 = 0xFFFFFFFF


class ContainerError(CallerError):
    """A container that is damaged, cut short, or not in its one canonical form."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file to be written and what it was measured to hold."""

    source: Source
    content: Content


def write_container(path: Path, members: Mapping[str, Member]) -> None:
    """Write the canonical container of these files, whole or not at all.

    Args:
        path: The target; an older file is replaced in one step at the end.
        members: Content by file name, any order.

    Raises:
        FileNameError: A name that no bundle may have.
        InputError: A file cannot be read or is not what was measured.
        OutputError: The target cannot be written.
    """
    check_names(list(members))
    names = canonical_order(members)
    layout = lay_out(Entry(name, members[name].content.size, members[name].content.crc32) for name in names)
    with replacing(path) as file:
        for placed in layout.placed:
            file.write(placed.header)
            _copy(placed.entry.name, members[placed.entry.name], file)
        file.write(layout.tail)


def _copy(name: str, member: Member, file: BinaryIO) -> None:
    size, crc32 = 0, 0
    for chunk in chunks(member.source):
        size += len(chunk)
        crc32 = zlib.crc32(chunk, crc32)
        if size > member.content.size:
            break
        file.write(chunk)
    if (size, crc32) != (member.content.size, member.content.crc32):
        raise InputError(f"{name} changed while it was being bundled.", remedy="Run again when nobody writes to it.")


def read_container(buffer: memoryview, label: str) -> tuple[Placed, ...]:
    """Return where each file of a container lies, having compared every byte that is not a file's content.

    Args:
        buffer: The whole container; file contents are not touched.
        label: What to call the container in messages.

    Raises:
        ContainerError: Anything deviates from the canonical form.
    """
    try:
        entries = _entries(buffer)
        check_names([entry.name for entry in entries])
    except (struct.error, UnicodeDecodeError) as error:
        raise _refusal(label, "its directory cannot be read") from error
    except (_DeviationError, FileNameError) as error:
        raise _refusal(label, str(error.args[0])) from error
    if [entry.name for entry in entries] != canonical_order(entry.name for entry in entries):
        raise _refusal(label, "its files are out of order")
    layout = lay_out(entries)
    _compare(buffer, layout, label)
    return layout.placed


class _DeviationError(Exception):
    """Why a container is not canonical."""


def _entries(buffer: memoryview) -> list[Entry]:
    count, size, offset = _end(buffer)
    if not 1 <= count <= MAX_FILES or offset + size > len(buffer):
        raise _DeviationError("its end record lies")
    directory, entries, position = buffer[offset : offset + size], [], 0
    for _ in range(count):
        entry, position = _entry(directory, position)
        entries.append(entry)
    return entries


def _end(buffer: memoryview) -> tuple[int, int, int]:
    if len(buffer) < END.size:
        raise _DeviationError("it is shorter than an end record")
    signature, _, _, _, count, size, offset, _ = END.unpack_from(buffer, len(buffer) - END.size)
    if signature != END_SIGNATURE:
        raise _DeviationError("it does not end with an end record; it is cut short or no bundle")
    if offset != _U32:
        return count, size, offset
    start = len(buffer) - END.size - LOCATOR.size - END64.size
    if start < 0:
        raise _DeviationError("its end record lies")
    signature, _, _, _, _, _, _, count, size, offset = END64.unpack_from(buffer, start)
    if signature != END64_SIGNATURE:
        raise _DeviationError("its ZIP64 end record is missing")
    return count, size, offset


def _entry(directory: memoryview, start: int) -> tuple[Entry, int]:
    fields = CENTRAL.unpack_from(directory, start)
    signature, crc32, size, name_bytes, extra_bytes = fields[0], fields[7], fields[9], fields[10], fields[11]
    name_at = start + CENTRAL.size
    extra_at = name_at + name_bytes
    if signature != CENTRAL_SIGNATURE or name_bytes > MAX_NAME_BYTES or extra_at + extra_bytes > len(directory):
        raise _DeviationError("its directory is damaged")
    if size == _U32:
        (size,) = struct.unpack_from("<Q", directory, extra_at + 4)
    return Entry(str(directory[name_at:extra_at], "ascii"), size, crc32), extra_at + extra_bytes


def _compare(buffer: memoryview, layout: Layout, label: str) -> None:
    if layout.size != len(buffer):
        raise _refusal(label, f"it has {len(buffer)} bytes where its directory asks for {layout.size}")
    for placed in layout.placed:
        if buffer[placed.offset : placed.data] != placed.header:
            raise _refusal(label, f"the header of {placed.entry.name} deviates")
    if buffer[layout.tail_offset :] != layout.tail:
        raise _refusal(label, "its directory deviates")


def _refusal(label: str, reason: str) -> ContainerError:
    return ContainerError(
        f"The container {label} is not canonical: {reason}.", remedy="Fetch the bundle again or compile it again."
    )
