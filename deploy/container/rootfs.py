"""Copy Python, an environment and every shared library that they need into a bare root: no shell, no package manager.

Run in the build stage: python rootfs.py DESTINATION TREE [TREE ...]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Parts of the standard library and of packages that no agent imports.
LEFT_OUT = (
    "test",
    "idlelib",
    "ensurepip",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "pip",
    "pip-*",
    "pip[0-9]*",
    "setuptools*",
    "_distutils_hack",
)
USER = "hyle:x:65532:65532:hyle edge agent:/var/lib/hyle:/nonexistent\n"
GROUP = "hyle:x:65532:\n"


def copy(tree: Path, destination: Path) -> None:
    """Copy a file or a folder to the same path below another root."""
    target = destination / tree.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if tree.is_dir():
        standard_library = (tree / "os.py").exists()  # what is installed beside it is another environment's
        ignored = shutil.ignore_patterns(*LEFT_OUT, *(("site-packages",) if standard_library else ()))
        shutil.copytree(tree, target, symlinks=True, ignore=ignored, dirs_exist_ok=True)
    elif not target.exists():
        shutil.copy2(tree, target, follow_symlinks=not (tree.is_symlink() and tree.resolve().parent == tree.parent))


def programs(destination: Path) -> Iterator[Path]:
    """Yield every program and shared library below a folder."""
    for path in destination.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def libraries(paths: list[Path]) -> set[Path]:
    """Return the shared libraries that programs ask the loader for, the loader among them."""
    done = subprocess.run(["ldd", *map(str, paths)], capture_output=True, text=True, check=False)
    return {Path(found) for found in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE)}


def main() -> int:
    """Fill the destination."""
    destination, *trees = (Path(argument).absolute() for argument in sys.argv[1:])
    for tree in trees:
        copy(tree, destination)
    index = Path("/etc/ld.so.cache")  # where the loader looks for those outside its own folders
    for library in {*libraries(list(programs(destination))), *([index] if index.exists() else [])}:
        if not library.is_relative_to(destination):
            copy(library, destination)
    for folder, mode in (
        ("tmp", 0o1777),
        ("proc", 0o555),
        ("dev", 0o755),
        ("var/lib/hyle", 0o700),
        ("etc/hyle", 0o755),
    ):
        (destination / folder).mkdir(parents=True, exist_ok=True)
        (destination / folder).chmod(mode)
    (destination / "etc/passwd").write_text(USER)
    (destination / "etc/group").write_text(GROUP)
    shutil.chown(destination / "var/lib/hyle", 65532, 65532)
    return 0


if __name__ == "__main__":
    sys.exit(main())
