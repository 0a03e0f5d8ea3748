"""Calibration and evaluation samples: `.npz` files with one array an input, samples first, and optionally `labels`.

Where the first axis of some input does not count samples (a recurrent state, a sampling rate), every array has an axis
more than its input, and each of its elements is one whole feed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hyle_compiler.errors import CalibrationError

__all__ = ["InputSpec", "Samples", "load_samples", "read_arrays"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of the model: its name, NumPy type and shape; None is a free dimension."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Arrays by input name, samples first, and one label a sample if there are any.

    With `whole` they are one feed that is never split, whatever its first axis means; with `apart` each element of the
    first axis is a feed of its own.
    """

    arrays: dict[str, Array]
    labels: Array | None
    whole: bool = False
    apart: bool = False

    @property
    def batched(self) -> bool:
        """Whether they can be put together and cut along the first axis of every array."""
        return not (self.whole or self.apart)

    def __len__(self) -> int:
        return 1 if self.whole else len(next(iter(self.arrays.values())))

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Go through all samples, at most `size` at a time; one at a time where each is a feed."""
        if self.whole:
            yield dict(self.arrays)
            return
        if self.apart:
            for number in range(len(self)):
                yield {name: np.asarray(array[number]) for name, array in self.arrays.items()}
            return
        for start in range(0, len(self), size):
            yield {name: array[start : start + size] for name, array in self.arrays.items()}

    def head(self, count: int) -> Samples:
        """The first `count` samples."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, arrays={name: array[:count] for name, array in self.arrays.items()}, labels=labels)

    def join(self, answers: Sequence[Array]) -> Array:
        """Put the answers to all `batches` together, samples first."""
        return np.stack(answers) if self.apart else np.concatenate(answers)


def load_samples(path: Path, inputs: Sequence[InputSpec]) -> Samples:
    """Read samples and hold them against the model's inputs.

    Raises:
        CalibrationError: No such file, no .npz, wrong names, shapes or types, no samples, values not finite.
    """
    arrays = read_arrays(path)
    labels = arrays.pop("labels", None)
    wanted = {spec.name for spec in inputs}
    if set(arrays) != wanted:
        raise CalibrationError(
            f"{path.name} has the arrays {sorted(arrays)}; the model's inputs are {sorted(wanted)}.",
            remedy="Save one array for each input, named like it, and optionally `labels`.",
        )
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    apart = all(arrays[spec.name].ndim == len(spec.shape) + 1 for spec in inputs)
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise CalibrationError(
            f"{path.name} has {counts} samples.",
            remedy="Give every input the same number of samples, at least 1; where the first axis of an input counts "
            "something else, give every array an axis more, in front, of which each element is one whole input.",
        )
    for spec in inputs:
        _check(path.name, spec, arrays[spec.name], apart=apart)
    if labels is not None and labels.shape[:1] != (next(iter(counts.values())),):
        raise CalibrationError(f"`labels` has the shape {labels.shape}.", remedy="Give one label a sample.")
    return Samples(arrays, labels, apart=apart)


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of an `.npz` file by name; CalibrationError if it is none."""
    if not path.is_file():
        raise CalibrationError(f"There is no file {path}.", remedy="Give an .npz file with one array for each input.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise CalibrationError(f"{path.name} is not an .npz file.", remedy="Write it with numpy.savez.") from error


def _check(file: str, spec: InputSpec, array: Array, *, apart: bool) -> None:
    sample = spec.shape if apart else spec.shape[1:]
    fits = len(array.shape) == len(sample) + 1 and all(
        want is None or want == got for want, got in zip(sample, array.shape[1:], strict=True)
    )
    if not fits:
        want = tuple("any" if size is None else size for size in (*(("samples",) if apart else ()), *spec.shape))
        raise CalibrationError(
            f"{file}: {spec.name!r} has the shape {array.shape}; the model wants {want}.", remedy="Reshape it."
        )
    if array.dtype != spec.dtype:
        raise CalibrationError(
            f"{file}: {spec.name!r} is {array.dtype}; the model wants {spec.dtype}.",
            remedy=f"Convert it: .astype({str(spec.dtype)!r}).",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CalibrationError(f"{file}: {spec.name!r} holds NaN or infinite values.", remedy="Remove those samples.")
