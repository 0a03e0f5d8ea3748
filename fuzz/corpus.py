"""The kept inputs of each target, one ZIP a target: the same inputs give the same bytes."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

__all__ = ["kept", "pack", "unpack"]

_FOLDER = Path(__file__).parent / "corpus"


def kept(target: str) -> list[bytes]:
    """Return the kept inputs of a target, none if none were kept yet."""
    path = _FOLDER / f"{target}.zip"
    if not path.is_file():
        return []
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist()]


def unpack(target: str, folder: Path) -> None:
    """Write a target's kept inputs as files."""
    for data in kept(target):
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def pack(target: str, folder: Path) -> None:
    """Keep the files of a folder as the target's inputs."""
    _FOLDER.mkdir(exist_ok=True)
    inputs = {hashlib.sha256(data).hexdigest()[:16]: data for data in (path.read_bytes() for path in folder.iterdir())}
    with zipfile.ZipFile(_FOLDER / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(inputs):
            archive.writestr(zipfile.ZipInfo(name), inputs[name], zipfile.ZIP_DEFLATED)
