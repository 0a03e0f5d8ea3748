"""The best parameters so far, kept in a file that appears whole and belongs to one model and target."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from hyle_compiler.adapt.method import AdaptError, Task

__all__ = ["Checkpoint"]

Array = np.ndarray[Any, Any]
_KEY = "belongs to"


class Checkpoint:
    """A task's checkpoint; without a path it keeps nothing.

    Args:
        task: Whose.

    Raises:
        AdaptError: The file cannot be written where it was asked for.
    """

    def __init__(self, task: Task) -> None:
        self._path = task.checkpoint
        self._task = task
        if self._path is not None and (self._path.is_dir() or not os.access(self._path.absolute().parent, os.W_OK)):
            raise AdaptError(
                f"A checkpoint cannot be written to {self._path}.",
                remedy="Give the path of a file in a folder that exists and can be written.",
            )

    def read(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array] | None:
        """Return the arrays that were kept, by name, or None if nothing was.

        Args:
            shapes: Of the arrays that must be among them, by name.

        Raises:
            AdaptError: The file is no checkpoint, or one of another model or target, or of a method that learns
                something else.
        """
        path = self._path
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: np.array(file[name]) for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            remedy = "Give another path, or remove the file to begin anew."
            raise AdaptError(f"{path} is no checkpoint.", remedy=remedy) from error
        if str(found.pop(_KEY, "")) != self._key():
            raise AdaptError(
                f"{path} is of another model or another target.",
                remedy="Give another path, or remove it to begin anew.",
            )
        if any(name not in found or found[name].shape != shape for name, shape in shapes.items()):
            raise AdaptError(
                f"{path} is of a method that learns something else.",
                remedy="Go on with that method, or give another path.",
            )
        return found

    def write(self, parameters: Mapping[str, Array]) -> None:
        """Keep parameters, arrays by name, instead of what was kept; a power cut leaves the old or the new ones."""
        if self._path is None:
            return
        scratch = self._path.with_name(f"{self._path.name}.new")
        with scratch.open("wb") as file:
            np.savez(file, **{_KEY: np.array(self._key()), **parameters})  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._path)

    def _key(self) -> str:
        digest = hashlib.sha256(self._task.profile.name.encode())
        for calibrated in self._task.layers:
            layer = calibrated.placed.layer
            digest.update(f"{layer.name} {layer.matrix.shape}".encode())
            digest.update(np.ascontiguousarray(layer.matrix).tobytes())
            digest.update(np.ascontiguousarray(layer.bias).tobytes())
        return digest.hexdigest()
