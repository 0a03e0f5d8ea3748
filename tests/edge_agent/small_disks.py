"""Small disks, each mounted for one test; an account that may not mount skips it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXT4_BYTES = 2**23


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    with _mounted(folder / "disk", "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as disk:
        yield disk


@contextmanager
def ext4(folder: Path) -> Iterator[Path]:
    make = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if make is None:
        pytest.skip("mkfs.ext4 is not installed (Debian: e2fsprogs)")
    image = folder / "image"
    image.write_bytes(bytes(EXT4_BYTES))
    subprocess.run([make, "-q", "-m", "0", str(image)], check=True)
    with _mounted(folder / "disk", "-o", "loop", str(image)) as disk:
        yield disk


@contextmanager
def _mounted(disk: Path, *what: str) -> Iterator[Path]:
    disk.mkdir()
    if subprocess.run(["mount", *what, str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("this account may not mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
