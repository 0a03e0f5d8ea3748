"""A disk that may lose power: what a list of operations leaves behind when the last of them were never synced.

Assumed of the file system, as of every journalling one that Linux has (ext4, XFS, Btrfs, F2FS) and no more than that:

- What `fsync` of a file returned for is there: its bytes and its size, but not its name.
- What `fsync` of a folder returned for is there: the names in it, but not the folder's own name, nor any file's bytes.
- All else may be lost, each operation for itself and in any order: a name that was made, removed or changed; a write
  as a whole, or any of its sectors, while the file's size says otherwise. What was lost reads as old bytes, zeros or
  garbage.
- A rename is one step: the new name is there, or it is not and the old one is. Of a file that moved from one folder to
  another, the old name may stay beside the new one until its own folder was synced.

References: ALICE (Pillai et al., OSDI 2014) and CrashMonkey (Mohan et al., OSDI 2018), whose weakest models these are.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
ROOT = 0
GARBAGE = b"\xa5"


@dataclass(frozen=True, slots=True)
class Enter:
    """A name appears in a folder: a new file or folder, or another name of a file that is there."""

    time: float
    folder: int
    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Remove:
    """A name goes."""

    time: float
    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """A name moves, over whatever had its new place."""

    time: float
    source: int
    old: str
    folder: int
    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes go into a file at an offset."""

    time: float
    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file gets another size."""

    time: float
    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """`fsync` of a file or a folder returned."""

    time: float
    inode: int


Operation = Enter | Remove | Rename | Write | Truncate | Sync


@dataclass
class Tree:
    """Folders and files by inode; inode 0 is the folder that everything lies in."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytearray] = field(default_factory=dict)

    def copy(self) -> Tree:
        return Tree({k: dict(v) for k, v in self.folders.items()}, {k: bytearray(v) for k, v in self.files.items()})

    def paths(self) -> Iterator[tuple[str, int]]:
        """Every path and its inode, folders before what is in them."""
        waiting = [("", ROOT)]
        while waiting:
            path, folder = waiting.pop()
            for name, inode in sorted(self.folders[folder].items()):
                yield f"{path}{name}", inode
                if inode in self.folders:
                    waiting.append((f"{path}{name}/", inode))

    def digest(self) -> str:
        """What tells two states apart: paths, contents, and which names are one file."""
        firsts: dict[int, str] = {}
        total = hashlib.sha256()
        for path, inode in sorted(self.paths()):
            what = b"" if inode in self.folders else hashlib.sha256(self.files[inode]).digest()
            total.update(f"{path}\0{firsts.setdefault(inode, path)}\0".encode() + what)
        return total.hexdigest()

    def write_to(self, folder: Path) -> None:
        """Make it real."""
        made: dict[int, Path] = {}
        for path, inode in self.paths():
            target = folder / path
            if inode in self.folders:
                assert inode not in made, f"{path} is a folder with two names"
                target.mkdir()
            elif inode in made:
                os.link(made[inode], target)
            else:
                target.write_bytes(self.files[inode])
            made[inode] = target


@dataclass(frozen=True, slots=True)
class Torn:
    """What of a write arrived: these sectors; `fill` stands where the rest should be, None cuts it off."""

    sectors: frozenset[int]
    fill: bytes | None


LOST, DOUBLED = "lost", "doubled"
Fate = str | Torn


def apply(tree: Tree, operation: Operation, fate: Fate | None = None) -> None:
    """Let an operation happen, or what its fate leaves of it."""
    match operation:
        case Sync():
            return
        case Write():
            _write(tree.files.setdefault(operation.inode, bytearray()), operation, fate)
        case Truncate():
            if fate is None:
                content = tree.files.setdefault(operation.inode, bytearray())
                content[:] = content[: operation.size].ljust(operation.size, b"\0")
        case Remove():
            if fate is None:
                tree.folders[operation.folder].pop(operation.name, None)
        case Rename():
            if fate != LOST:
                tree.folders[operation.folder][operation.name] = operation.inode
                if fate != DOUBLED and tree.folders[operation.source].get(operation.old) == operation.inode:
                    del tree.folders[operation.source][operation.old]
        case Enter():
            if fate is None:
                tree.folders[operation.folder][operation.name] = operation.inode


def _write(content: bytearray, write: Write, fate: Fate | None) -> None:
    end = write.offset + len(write.data)
    if fate == LOST:
        return
    if fate is None:
        content.extend(bytes(max(0, end - len(content))))
        content[write.offset : end] = write.data
        return
    assert isinstance(fate, Torn)
    if fate.fill is not None and end > len(content):
        content.extend(fate.fill * (end - len(content)))
    for sector in fate.sectors:
        start, stop = sector * SECTOR, min((sector + 1) * SECTOR, len(write.data))
        at = write.offset + start
        content.extend(bytes(max(0, write.offset + stop - len(content))))
        content[at : write.offset + stop] = write.data[start:stop]


class History:
    """What happened to a disk, and every state that a loss of power may leave of it.

    Args:
        before: The disk at first, all of it synced.
        operations: In the order in which they happened.
        is_folder: Every folder's inode, the ones that were made on the way included.
    """

    def __init__(self, before: Tree, operations: Sequence[Operation], is_folder: frozenset[int]) -> None:
        self.before = before.copy()
        for inode in is_folder:
            self.before.folders.setdefault(inode, {})
        for operation in operations:
            if isinstance(operation, Enter) and operation.inode not in is_folder:
                self.before.files.setdefault(operation.inode, bytearray())
        self.operations = tuple(operations)
        self._is_folder = is_folder
        self._safe = [self._safe_after(index) for index in range(len(operations))]
        self._tidy = [self._safe_after(index, tidy=True) for index in range(len(operations))]

    def _safe_after(self, index: int, *, tidy: bool = False) -> int:
        """How many operations it takes until this one is synced; with `tidy`, until a rename's old name is gone."""
        operation = self.operations[index]
        match operation:
            case Write() | Truncate():
                wanted = operation.inode
            case Rename():
                wanted = operation.source if tidy else operation.folder
            case Enter() | Remove():
                wanted = operation.folder
            case Sync():
                return 0
        later = range(index + 1, len(self.operations))
        syncs = (at + 1 for at in later if self.operations[at] == Sync(self.operations[at].time, wanted))
        return next(syncs, len(self.operations) + 1)

    def endangered(self, happened: int) -> list[int]:
        """The operations among the first ones that a loss of power after them may still lose."""
        return [index for index in range(happened) if self._safe[index] > happened or self._may_double(index, happened)]

    def _may_double(self, index: int, happened: int) -> bool:
        operation = self.operations[index]
        return (
            isinstance(operation, Rename)
            and operation.source != operation.folder
            and operation.inode not in self._is_folder
            and self._tidy[index] > happened
        )

    def fates(self, index: int, happened: int, chance: random.Random) -> list[Fate]:
        """Whatever may come of an endangered operation."""
        operation = self.operations[index]
        found: list[Fate] = []
        if self._safe[index] > happened:
            found.append(LOST)
            if isinstance(operation, Write):
                found += _tears(operation, chance)
        if self._may_double(index, happened):
            found.append(DOUBLED)
        return found

    def state(self, happened: int, fates: Mapping[int, Fate]) -> Tree:
        """The disk after so many operations, of which some met their fates."""
        tree = self.before.copy()
        for index, operation in enumerate(self.operations[:happened]):
            apply(tree, operation, fates.get(index))
        return tree

    def crashes(self, happened: int, chance: random.Random, count: int) -> Iterator[Tree]:
        """States after so many operations: nothing and all lost, each lost alone and kept alone, then any at random.

        The losses alone come in random order, so that who takes only some takes any.
        """
        endangered = self.endangered(happened)
        options = {index: self.fates(index, happened, chance) for index in endangered}
        worst = {index: fates[0] for index, fates in options.items()}
        alone = [{index: fate} for index, fates in options.items() for fate in fates]
        alone += [{other: fate for other, fate in worst.items() if other != index} for index in options]
        chance.shuffle(alone)
        for fates in ({}, worst, *alone):
            yield self.state(happened, fates)
        for _ in range(count if endangered else 0):
            share = chance.choice((0.15, 0.4, 0.7))
            lost = [index for index in endangered if chance.random() < share]
            yield self.state(happened, {index: chance.choice(self.fates(index, happened, chance)) for index in lost})


def _tears(write: Write, chance: random.Random) -> list[Fate]:
    sectors = range(-(-len(write.data) // SECTOR))
    some = frozenset(sector for sector in sectors if chance.random() < 0.5)
    first = frozenset(range(chance.randrange(len(sectors)))) if sectors else frozenset()
    nothing = (Torn(frozenset(), b"\0"), Torn(frozenset(), GARBAGE))
    return [*nothing, Torn(first, None), Torn(some, b"\0"), Torn(some, GARBAGE)]
