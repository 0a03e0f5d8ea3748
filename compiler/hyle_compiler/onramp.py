"""What other frameworks save, as ONNX: exported programs by torch's own exporter; for the rest, what to run."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hyle_compiler.errors import ModelError

__all__ = ["as_onnx", "export_module"]

SAVE = (
    "Where you trust the file, save the model as an exported program, in torch: "
    "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')."
)
EXPORTERS = {
    ".tflite": "python -m tf2onnx.convert --tflite MODEL.tflite --output model.onnx --opset 17",
    ".h5": "in Keras 3: keras.models.load_model('MODEL.h5').export('model.onnx', format='onnx')",
    ".keras": "in Keras 3: keras.models.load_model('MODEL.keras').export('model.onnx', format='onnx')",
    ".pb": "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx --opset 17",
    ".safetensors": "optimum-cli export onnx --model FOLDER_OR_NAME out/ (the file holds weights without a graph)",
    ".gguf": "optimum-cli export onnx --model NAME out/ with the original model (GGUF holds weights without a graph)",
    ".pkl": "in scikit-learn: skl2onnx.to_onnx(model, samples[:1]) and write its SerializeToString()",
    ".joblib": "in scikit-learn: skl2onnx.to_onnx(model, samples[:1]) and write its SerializeToString()",
    ".pdmodel": "paddle2onnx --model_dir FOLDER --model_filename MODEL.pdmodel --save_file model.onnx",
    ".mlmodel": "the exporter of the framework that the model was trained in (Core ML does not lead to ONNX)",
}
UNPICKLED = ("custom_obj_", "opaque_obj_")


def as_onnx(path: Path, folder: Path) -> Path:
    """The model as an ONNX file.

    Args:
        path: What the user named; an ONNX file is taken as it is.
        folder: Where an export may be written.

    Returns:
        `path`, or `exported.onnx` in `folder`.

    Raises:
        ModelError: The file is of a framework whose exporter must be run first, or an exported program that torch
            cannot export; says what to run. Pickles are never loaded.
    """
    kind = path.suffix.lower()
    if path.is_dir() and (path / "saved_model.pb").is_file():
        raise _elsewhere(path, ".pb")
    if kind in EXPORTERS:
        raise _elsewhere(path, kind)
    if not path.is_file() or not (kind in {".pt2", ".pt", ".pth"} or _is_torch_archive(path)):
        return path
    if kind == ".pt2" or _members(path, "archive_format"):
        return _export_program(path, folder)
    raise ModelError(
        f"{path.name} is a pickle of PyTorch; loading one can run any code, so it is not loaded.", remedy=SAVE
    )


def export_module(module: Any, samples: Mapping[str, np.ndarray[Any, Any]], folder: Path) -> Path:
    """Export a torch module, in evaluation mode, with a free first dimension.

    Args:
        module: A `torch.nn.Module`.
        samples: Arrays by the names of the arguments of its `forward`, samples first.
        folder: Where the ONNX file is written.

    Returns:
        `exported.onnx` in `folder`.

    Raises:
        ModelError: The samples do not name the arguments, or torch cannot export the module.
    """
    torch = _torch("The model")
    wanted = [name for name in inspect.signature(module.forward).parameters if name in samples]
    if not wanted or set(wanted) != set(samples) - {"labels"}:
        raise ModelError(
            f"The module's forward takes {list(inspect.signature(module.forward).parameters)}; the samples have "
            f"{sorted(set(samples) - {'labels'})}.",
            remedy="Save one array for each argument, named like it.",
        )
    examples = {name: torch.from_numpy(np.ascontiguousarray(samples[name][:2])) for name in wanted}
    training = module.training
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), _explained("the module"):
            shapes = {name: {0: batch} for name in wanted}
            program = torch.export.export(module.eval(), (), kwargs=examples, dynamic_shapes=shapes)
            return _write(torch, program, folder)
    finally:
        module.train(training)


def _elsewhere(path: Path, kind: str) -> ModelError:
    return ModelError(f"{path.name} is not an ONNX model.", remedy=f"Export it first, with {EXPORTERS[kind]}.")


def _is_torch_archive(path: Path) -> bool:
    return bool(_members(path, "data.pkl") or _members(path, "archive_format"))


def _members(path: Path, name: str) -> list[str]:
    """Members of a ZIP with this file name; none if it is no ZIP."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [member for member in archive.namelist() if member.rpartition("/")[2] == name]
    except (zipfile.BadZipFile, OSError, ValueError):
        return []


def _export_program(path: Path, folder: Path) -> Path:
    torch = _torch(path.name)
    with _quiet(), _explained(path.name):
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
        hidden = [name for name in records if name.rpartition("/")[2].startswith(UNPICKLED)]
        if hidden:
            raise ModelError(
                f"{path.name} holds objects as pickles ({hidden[0]}); loading them can run any code.",
                remedy="Export the model without custom objects, or with torch.onnx.export where you trust it.",
            )
        return _write(torch, torch.export.load(path), folder)


def _write(torch: Any, program: Any, folder: Path) -> Path:
    out = folder / "exported.onnx"
    try:
        torch.onnx.export(program, (), out, dynamo=True, verbose=False, external_data=True)
    except torch.onnx.OnnxExporterError as error:
        # An operator in a form that the exporter has no translation for, such as attention on three axes: most go as
        # the smaller operators that they are made of.
        try:
            torch.onnx.export(program.run_decompositions(), (), out, dynamo=True, verbose=False, external_data=True)
        except Exception:
            raise error from error.__cause__
    return out


def _torch(what: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ModelError(
            f"{what} is a model of PyTorch, and torch is not installed here.",
            remedy="Install it with: pip install 'hyle[train]'; or export the model where torch is: "
            "torch.onnx.export(torch.export.load('model.pt2'), (), 'model.onnx', dynamo=True).",
        ) from error
    return torch


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Whatever torch says against a model is said to the caller, in one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and str(cause.__cause__).strip():  # the last one names the reason
            cause = cause.__cause__
        text = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200].rstrip(".")
        raise ModelError(
            f"torch cannot export {what}: {text}.",
            remedy="Write that part with other operators, export it with this version of torch, or to ONNX yourself.",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing, and from unpickling anything but tensors."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if before is None:
            os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
