"""Every change that a process makes below a folder, from the kernel: strace's output read into operations on a disk.

All calls that take a path or a descriptor are recorded. One that names the folder and is neither known to change
nothing nor understood here ends the test: nothing is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crash_disk import ROOT, Enter, Operation, Remove, Rename, Sync, Tree, Truncate, Write, apply

STRACE = ("strace", "-ff", "-ttt", "-y", "-xx", "-s", "67108864", "--quiet=all", "-e", "signal=none")
CALLS = ("-e", "trace=%file,%desc")
CHANGES_NOTHING = re.compile(
    r"access|faccessat2?|f?chmod|fchmodat|[fl]?chown|fchownat|utime(s|nsat)?|futimesat|[fl]?stat|newfstatat|statx|f?statfs"
    r"|getdents(64)?|readlink(at)?|readv?|pread64|preadv2?|readahead|fadvise64|flock|ioctl|[fl]?(get|list)xattr|p?poll"
    r"|inotify_add_watch|name_to_handle_at|getcwd|f?chdir|execve"
)
_LINE = re.compile(r"^(\d+\.\d+) (\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"^(\d+|AT_FDCWD)(?:<([^>]*)>)?")


class MissedError(AssertionError):
    """The recording holds something that is not understood."""


@dataclass(frozen=True, slots=True)
class Called:
    """One system call that succeeded."""

    time: float
    name: str
    arguments: tuple[str, ...]
    result: int


def _text(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("\\x", "")).decode() if escaped.startswith("\\x") else escaped


def calls(files: Iterable[Path], root: Path) -> list[Called]:
    """Read strace's files, one a thread, into the calls that name `root` and changed something, in their order."""
    marks = {str(root), "".join(f"\\x{byte:02x}" for byte in str(root).encode())}
    found = []
    for path in files:
        with path.open() as lines:
            for line in lines:
                if any(mark in line for mark in marks):
                    found.append(_parsed(line))
                elif "io_uring_setup" in line:
                    raise MissedError("The process uses io_uring, which is not recorded.")
    return sorted((call for call in found if call is not None), key=lambda call: call.time)


def _parsed(line: str) -> Called | None:
    matched = _LINE.match(line)
    if matched is None:
        raise MissedError(f"a line is not understood: {line[:200]!r}")
    time, name, arguments, result = matched.groups()
    if CHANGES_NOTHING.fullmatch(name) or result.startswith("-"):
        return None
    if result == "?":  # the process was killed in it
        if name in {"fsync", "fdatasync", "close"}:
            return None  # a sync that never returned promised nothing
        raise MissedError(f"the process was killed in a {name}, and nobody knows whether it happened")
    return Called(float(time), name, tuple(arguments.split(", ")), int(result, 0))


@dataclass
class _Handle:
    inode: int
    offset: int
    append: bool


class Interpreter:
    """Turns calls into operations, keeping the tree as it must be now and what each descriptor stands for.

    Args:
        root: The recorded folder.
        tree: What it held before.
    """

    def __init__(self, root: Path, tree: Tree) -> None:
        self.root = root
        self.tree = tree
        self.operations: list[Operation] = []
        self._handles: dict[int, _Handle] = {}
        self._fresh = max([*tree.folders, *tree.files, ROOT]) + 1

    def process(self, called: Iterable[Called]) -> None:
        """Take the calls of one process from its start to its end."""
        self._handles.clear()
        for call in called:
            handler = getattr(self, f"_{call.name}", None)
            if handler is None:
                raise MissedError(f"{call.name} is not understood: {', '.join(call.arguments)[:200]}")
            handler(call)

    def _do(self, operation: Operation) -> None:
        self.operations.append(operation)
        apply(self.tree, operation)

    def _place(self, text: str, at: str | None = None) -> tuple[int, str]:
        """The folder and the name of a path argument, relative to a descriptor argument if one is given."""
        quoted = _STRING.match(text)
        if quoted is None or quoted[2]:
            raise MissedError(f"a path is cut short: {text[:200]}")
        path = Path(_text(quoted[1]))
        if not path.is_absolute():
            matched = _DESCRIPTOR.match(at or "")
            if matched is None or matched[2] is None:
                raise MissedError(f"{path} is relative to an unknown folder")
            path = Path(_text(matched[2])) / path
        *folders, name = path.relative_to(self.root).parts or (".",)
        folder = ROOT
        for part in folders:
            folder = self.tree.folders[folder][part]
        return folder, name

    def _open(self, call: Called) -> None:
        self._opened(call, self._place(call.arguments[0]), call.arguments[1])

    def _openat(self, call: Called) -> None:
        self._opened(call, self._place(call.arguments[1], call.arguments[0]), call.arguments[2])

    def _opened(self, call: Called, place: tuple[int, str], words: str) -> None:
        flags, (folder, name) = words.split("|"), place
        if "O_TMPFILE" in flags:
            raise MissedError("a nameless file is not understood")
        inode = ROOT if name == "." else self.tree.folders[folder].get(name)
        if inode is None:
            if "O_CREAT" not in flags:
                raise MissedError(f"{name} is opened and was never made")
            inode = self._new(call, folder, name)
        elif "O_TRUNC" in flags:
            self._do(Truncate(call.time, inode, 0))
        self._handles[call.result] = _Handle(inode, 0, "O_APPEND" in flags)

    def _new(self, call: Called, folder: int, name: str, *, is_folder: bool = False) -> int:
        inode, self._fresh = self._fresh, self._fresh + 1
        if is_folder:
            self.tree.folders[inode] = {}
        else:
            self.tree.files[inode] = bytearray()
        self._do(Enter(call.time, folder, name, inode))
        return inode

    def _handle(self, call: Called) -> _Handle:
        matched = _DESCRIPTOR.match(call.arguments[0])
        handle = self._handles.get(int(matched[1])) if matched else None
        if handle is None:
            raise MissedError(f"{call.name} on a descriptor that was never opened: {call.arguments[0][:200]}")
        return handle

    def _close(self, call: Called) -> None:
        self._handle(call)
        del self._handles[int(_DESCRIPTOR.match(call.arguments[0])[1])]

    def _fcntl(self, call: Called) -> None:
        if call.arguments[1].startswith("F_DUPFD"):
            self._handles[call.result] = self._handle(call)

    def _dup(self, call: Called) -> None:
        self._handles[call.result] = self._handle(call)

    _dup2 = _dup3 = _dup

    def _lseek(self, call: Called) -> None:
        self._handle(call).offset = call.result

    def _mmap(self, call: Called) -> None:
        if "MAP_SHARED" in call.arguments[3] and "PROT_WRITE" in call.arguments[2]:
            raise MissedError("a file of the store is mapped to be written")

    def _write(self, call: Called) -> None:
        handle = self._handle(call)
        at = len(self.tree.files[handle.inode]) if handle.append else handle.offset
        self._written(call, handle.inode, at)
        handle.offset = at + call.result

    _writev = _write

    def _pwrite64(self, call: Called) -> None:
        self._written(call, self._handle(call).inode, int(call.arguments[-1], 0))

    def _written(self, call: Called, inode: int, offset: int) -> None:
        parts = _STRING.findall(", ".join(call.arguments[1:]))
        if not parts or any(cut for _, cut in parts):
            raise MissedError(f"the bytes of a {call.name} are cut short")
        data = b"".join(bytes.fromhex(part.replace("\\x", "")) for part, _ in parts)[: call.result]
        self._do(Write(call.time, inode, offset, data))

    def _ftruncate(self, call: Called) -> None:
        self._do(Truncate(call.time, self._handle(call).inode, int(call.arguments[1], 0)))

    def _fsync(self, call: Called) -> None:
        self._do(Sync(call.time, self._handle(call).inode))

    _fdatasync = _fsync

    def _mkdir(self, call: Called) -> None:
        self._new(call, *self._place(call.arguments[0]), is_folder=True)

    def _mkdirat(self, call: Called) -> None:
        self._new(call, *self._place(call.arguments[1], call.arguments[0]), is_folder=True)

    def _unlink(self, call: Called) -> None:
        self._do(Remove(call.time, *self._place(call.arguments[0])))

    _rmdir = _unlink

    def _unlinkat(self, call: Called) -> None:
        self._do(Remove(call.time, *self._place(call.arguments[1], call.arguments[0])))

    def _rename(self, call: Called) -> None:
        self._renamed(call, self._place(call.arguments[0]), self._place(call.arguments[1]))

    def _renameat(self, call: Called) -> None:
        a = call.arguments
        self._renamed(call, self._place(a[1], a[0]), self._place(a[3], a[2]))

    def _renamed(self, call: Called, old: tuple[int, str], new: tuple[int, str]) -> None:
        self._do(Rename(call.time, *old, *new, self.tree.folders[old[0]][old[1]]))

    def _link(self, call: Called) -> None:
        self._linked(call, self._place(call.arguments[0]), self._place(call.arguments[1]))

    def _linkat(self, call: Called) -> None:
        a = call.arguments
        self._linked(call, self._place(a[1], a[0]), self._place(a[3], a[2]))

    def _linked(self, call: Called, old: tuple[int, str], new: tuple[int, str]) -> None:
        self._do(Enter(call.time, *new, self.tree.folders[old[0]][old[1]]))


def read_tree(root: Path) -> Tree:
    """What lies in a folder now."""
    tree, numbers = Tree(), {root.stat().st_ino: ROOT}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        names = tree.folders[numbers[folder.stat().st_ino]]
        for path in sorted(folder.iterdir()):
            inode = numbers.setdefault(path.lstat().st_ino, len(numbers))
            names[path.name] = inode
            if path.is_dir():
                tree.folders[inode] = {}
                waiting.append(path)
            else:
                tree.files[inode] = bytearray(path.read_bytes())
    return tree
