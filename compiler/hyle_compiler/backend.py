"""An `onnx.backend` over the whole way: compile, then run the digital segments and the physical layers on a twin."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hyle_bundle.manifest import Manifest
from hyle_errors import HyleError
from hyle_runtime.body import Body
from hyle_substrates.profile import Profile, load_profile
from hyle_substrates.twin import TwinDriver
from onnx.backend.base import Backend, BackendRep

from hyle_compiler.build import Built, Identity, build
from hyle_compiler.errors import ModelError
from hyle_compiler.evaluate import tensor_file
from hyle_compiler.golden import GOLDEN
from hyle_compiler.partition import partition
from hyle_compiler.read import OLDEST_OPSET
from hyle_compiler.samples import Samples
from hyle_compiler.simplify import simplify
from hyle_compiler.tensors import PROGRAMMING

__all__ = ["HyleBackend", "HyleRep"]

SCAN_WITHOUT_BATCH = 9


class HyleRep(BackendRep):
    """A model that is compiled when it sees its first inputs, which are its calibration samples.

    Args:
        model: The model, checked.
        profile: The target.
        seed: Which twin instance, and the seed of everything drawn.
    """

    def __init__(self, model: onnx.ModelProto, profile: Profile, seed: int = 0) -> None:
        self._proto, self._profile, self._seed = model, profile, seed
        constants = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [value.name for value in model.graph.input if value.name not in constants]
        self._folder = Path(tempfile.mkdtemp(prefix="hyle-backend-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._body: Body | None = None

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Answer one feed.

        Args:
            inputs: One value for each input in order (or by name): arrays, lists for sequences, None for an absent
                optional.
            kwargs: Not used.

        Raises:
            CallerError: The model cannot be compiled, or does not take these inputs.
        """
        given = inputs if isinstance(inputs, Sequence) else [inputs]
        feed = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(self._inputs, given, strict=False))
        feed = {name: np.asarray(value) if np.isscalar(value) else value for name, value in feed.items()}
        try:
            if self._body is None:
                self._body = self._compile(feed)
            answers = self._body.run(feed)
        except HyleError:
            raise
        except Exception as error:
            text = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise ModelError(
                f"The model does not run on these inputs: {text}",
                remedy="Check types and shapes of the inputs; onnxruntime has no such operator for some element types.",
            ) from error
        return tuple(answers[output.name] for output in self._body.manifest.outputs)

    @property
    def profile(self) -> Profile:
        """The target."""
        return self._profile

    @property
    def folder(self) -> Path:
        """Where the compiled files lie while this object lives."""
        return self._folder

    @property
    def manifest(self) -> Manifest:
        """What was compiled; ModelError before the first inputs were seen."""
        if self._body is None:
            raise ModelError("Nothing was compiled yet.", remedy="Call run() with the first inputs.")
        return self._body.manifest

    def levels(self) -> list[np.ndarray[Any, Any]]:
        """The integer targets of every block, in the operator's own layout."""
        tensors = tensor_file(self._folder / PROGRAMMING)
        return [tensors.array(block.levels) for layer in self.manifest.layers for block in layer.blocks]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers on physics, once the first inputs were seen."""
        return () if self._body is None else tuple(layer.name for layer in self._body.manifest.layers)

    def _compile(self, feed: Mapping[str, Any]) -> Body:
        folder = self._folder
        built = _build(folder, self._proto, feed, self._profile, self._seed)
        driver = TwinDriver(self._profile, self._seed)
        tensors = tensor_file(folder / PROGRAMMING), tensor_file(folder / GOLDEN)
        body = Body(folder, built.manifest, *tensors, driver, threads=1, fused=False)
        body.program()
        return body


class HyleBackend(Backend):
    """The `onnx.backend` interface; a subclass names another target."""

    target = "ideal"

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """The twin runs on the CPU."""
        return device == "CPU"

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether `prepare` would take the model."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> HyleRep:
        """Check a model.

        Args:
            model: The model.
            device: `CPU`.
            kwargs: `target`: name of a profile; `seed`.

        Raises:
            ModelError: The model is not valid ONNX.
        """
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            text = (str(error).splitlines() or ["not valid"])[0][:200]
            raise ModelError(f"This is not a valid ONNX model: {text}", remedy="Export the model again.") from error
        return HyleRep(model, load_profile(str(kwargs.get("target", cls.target))), int(kwargs.get("seed", 0)))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile and answer one feed."""
        return cls.prepare(model, device, **kwargs).run(inputs)


def _build(folder: Path, proto: onnx.ModelProto, feed: Mapping[str, Any], profile: Profile, seed: int) -> Built:
    model = _simplified(proto)
    digest = sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    identity = Identity("model", "1", 1, seed, digest)
    newest = _opset(model) >= OLDEST_OPSET
    layers = partition(model).physical if newest else ()
    return build(folder, model, layers, Samples(dict(feed), None, whole=True), profile, identity)


def _simplified(proto: onnx.ModelProto) -> ir.Model:
    """The simplified model, or the model as it is where the simplifier does not understand it."""
    try:
        return simplify(ir.from_proto(_modern(proto)))
    except Exception:
        return ir.from_proto(proto)


def _modern(proto: onnx.ModelProto) -> onnx.ModelProto:
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    version = versions.get("", versions.get("ai.onnx", 0))
    reshaped = version < SCAN_WITHOUT_BATCH and any(node.op_type == "Scan" for node in proto.graph.node)
    if not 0 < version < OLDEST_OPSET or reshaped:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, OLDEST_OPSET)
    except Exception:
        return proto


def _opset(model: ir.Model) -> int:
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
