"""The verbs of the command line as a Python API."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from hyle_bundle import Bundle, load_private_key, open_bundle
from hyle_bundle.manifest import Manifest
from hyle_compiler.durations import parse_durations
from hyle_compiler.evaluate import evaluate_bundle
from hyle_compiler.onramp import export_module
from hyle_compiler.pipeline import Compiled, Options, compile_model
from hyle_compiler.samples import read_arrays
from hyle_substrates.profile import find_profile

__all__ = ["OpenBundle", "compile", "open"]


def compile(  # noqa: A001
    model: str | Path | Any,
    *,
    target: str,
    calib: str | Path,
    output: str | Path,
    key: str | Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Compiled:
    """Compile a model into a bundle.

    Args:
        model: The ONNX file; a program that `torch.export.save` wrote; or a `torch.nn.Module`, which is exported in
            evaluation mode, with the samples as its example.
        target: Name of a target, or path of a profile.
        calib: Samples, an `.npz` file with one array for each input, named like it.
        output: The bundle to write.
        key: Private key (PEM) that signs it.
        progress: Told what is being done.
        **options: Fields of `Options`: name, version, counter, seed, compensation, copies, instances.

    Returns:
        Path, digest, manifest and report of the bundle.

    Raises:
        HyleError: The model, the samples, the target or the output cannot be used; says why and what to do.
    """
    profile, text = find_profile(target)
    private = load_private_key(Path(key)) if key is not None else None
    if isinstance(model, (str, Path)):
        chosen = Options(**options)
        return compile_model(Path(model), Path(calib), profile, text, Path(output), chosen, private, progress)
    with tempfile.TemporaryDirectory(prefix="hyle-") as folder:
        progress("exporting the module to ONNX")
        exported = export_module(model, read_arrays(Path(calib)), Path(folder))
        chosen = Options(**{"name": type(model).__name__, **options})
        return compile_model(exported, Path(calib), profile, text, Path(output), chosen, private, progress)


class OpenBundle:
    """A verified bundle, open for reading; close it, or use it as a context manager."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, in hexadecimal."""
        return self._bundle.digest

    @property
    def signer(self) -> str | None:
        """Fingerprint of the key that signed it."""
        return self._bundle.signer

    def read(self, name: str) -> bytes:
        """Content of one file."""
        return bytes(self._bundle.read(name))

    def evaluate(
        self,
        data: str | Path,
        *,
        at: str = "25s,1h,1d,1y",
        instances: int = 10,
        seed: int = 1000,
        model: str | Path | None = None,
    ) -> dict[str, Any]:
        """Measure accuracy on the twin.

        Args:
            data: Samples and optionally `labels`, an `.npz` file.
            at: Ages after programming, comma-separated durations.
            instances: Device instances.
            seed: Seed of the first.
            model: The float model, to have its score too.

        Returns:
            `float`, `exact`, `metric`, `samples`, and for each age mean, standard deviation and scores (fractions).
        """
        with tempfile.TemporaryDirectory(prefix="hyle-") as folder:
            self._bundle.extract(Path(folder))
            return evaluate_bundle(
                Path(folder),
                self.manifest,
                Path(data),
                ages_s=parse_durations(at),
                seeds=range(seed, seed + instances),
                float_model=Path(model) if model else None,
            )

    def close(self) -> None:
        """Let go of the file."""
        self._bundle.close()

    def __enter__(self) -> OpenBundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open(path: str | Path) -> OpenBundle:  # noqa: A001
    """Open a bundle and verify every digest, and the signature if there is one.

    Raises:
        BundleError: The file is no bundle, damaged, or its signature is wrong.
    """
    return OpenBundle(open_bundle(Path(path)))
