"""Samples from an `.npz` file: one array an input, samples first, and optionally `labels`.

Where the first axis of some input does not count samples (a state, a sampling rate), every array has an axis more, in
front, and each of its elements is what one request asks.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hyle_errors import CallerError

from hyle_deploy.records import TensorSpec
from hyle_deploy.tensors import Array, datatype_of

__all__ = ["Samples", "SamplesError", "read_samples"]


class SamplesError(CallerError):
    """A file of samples that does not fit the model."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of every input, and their labels.

    Attributes:
        inputs: One array an input, named like it, samples first.
        labels: One class a sample, or None.
        apart: Whether each element of the arrays' first axis is one whole input.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    apart: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def head(self, count: int) -> Samples:
        """The first `count` samples."""
        labels = None if self.labels is None else self.labels[:count]
        return Samples({name: array[:count] for name, array in self.inputs.items()}, labels, self.apart)

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Yield the inputs, `size` samples at a time; the last batch may be smaller.

        Raises:
            SamplesError: Samples that are whole inputs are to be sent together.
        """
        if self.apart:
            if size != 1:
                raise SamplesError(
                    f"Each sample is a whole input of the model; {size} of them are no request.",
                    remedy="Leave the size of a batch out.",
                )
            for number in range(len(self)):
                yield {name: np.asarray(array[number]) for name, array in self.inputs.items()}
            return
        for start in range(0, len(self), size):
            yield {name: array[start : start + size] for name, array in self.inputs.items()}


def read_samples(path: str | Path, specs: tuple[TensorSpec, ...]) -> Samples:
    """Read samples and hold them against a model's inputs.

    Args:
        path: The `.npz` file.
        specs: The model's inputs.

    Raises:
        SamplesError: The file cannot be read, an array is missing, too many, or of another type, shape or length.
    """
    arrays = _load(Path(path))
    labels = arrays.pop("labels", None)
    names = {spec.name for spec in specs}
    if set(arrays) != names:
        raise SamplesError(
            f"{path} holds {_listed(arrays)}, the model's inputs are {_listed(names)}.",
            remedy="Save one array for each input, named like it, and nothing else but `labels`.",
        )
    apart = all(arrays[spec.name].ndim == len(spec.shape) + 1 for spec in specs)
    for spec in specs:
        _fits(path, spec, arrays[spec.name], apart=apart)
    lengths = {name: len(array) for name, array in arrays.items()} | (
        {} if labels is None else {"labels": _length(labels)}
    )
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise SamplesError(
            f"{path} holds {lengths} samples.", remedy="Save the same number of samples, at least one, in every array."
        )
    return Samples(arrays, labels, apart)


def _listed(names: Mapping[str, Array] | set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)) or "nothing"


def _length(labels: Array) -> int:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise SamplesError(
            f"`labels` is {labels.dtype}{list(labels.shape)}, not one class a sample.",
            remedy="Save integer class indices.",
        )
    return len(labels)


def _load(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SamplesError(f"{path} cannot be read as .npz: {reason}.", remedy="Save it with numpy.savez.") from error


def _fits(path: str | Path, spec: TensorSpec, array: Array, *, apart: bool) -> None:
    datatype = datatype_of(array)
    if datatype != spec.datatype:
        raise SamplesError(
            f"Array {spec.name!r} of {path} is {datatype}, the model takes {spec.datatype}.",
            remedy=f"Convert it to {spec.datatype} before saving.",
        )
    wanted = spec.shape
    sample = wanted if apart else wanted[1:]
    same = array.ndim == len(sample) + 1 and all(
        want in (-1, got) for want, got in zip(sample, array.shape[1:], strict=False)
    )
    if not same:
        raise SamplesError(
            f"Array {spec.name!r} of {path} has shape {list(array.shape)}, the model takes {list(wanted)}.",
            remedy="Save samples first, each in the model's own shape; where the first axis of an input counts "
            "something else, give every array an axis more, in front.",
        )
