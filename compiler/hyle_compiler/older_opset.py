"""Models of an opset before the oldest that is compiled: brought up by onnx, and held to their own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import version_converter
from onnx.external_data_helper import uses_external_data

from hyle_compiler.activations import feeds, run_in_batches, start_session
from hyle_compiler.errors import ModelError
from hyle_compiler.exactness import agree
from hyle_compiler.read import OLDEST_OPSET
from hyle_compiler.samples import Samples

__all__ = ["check_raised", "raised"]

# The same arithmetic in other operators: some hundred roundings of float32 in a row, as a share of the answers' range.
TOLERANCE = 1e-4
TRIED = 8
LARGEST_BYTES = 2**29


def raised(path: Path, folder: Path) -> Path:
    """The model at an opset that is compiled.

    Args:
        path: A file; what is new enough, no ONNX, or cannot be converted is left to `read_model`. External data is not
            converted.
        folder: Where a converted model may be written.

    Returns:
        `path`, or `raised.onnx` in `folder`; its answers are still to be held against the original's (`check_raised`).
    """
    proto = _older(path)
    if proto is None or any(uses_external_data(tensor) for tensor in proto.graph.initializer):
        return path
    try:
        onnx.checker.check_model(proto)
        made = version_converter.convert_version(proto, OLDEST_OPSET)
        onnx.checker.check_model(made)
    except Exception:  # the converter raises what it likes; whoever reads the original says what is wrong with it
        return path
    out = folder / "raised.onnx"
    onnx.save_model(made, str(out))
    return out


def check_raised(original: Path, made: Path, samples: Samples) -> None:
    """Hold a converted model's answers against the original's.

    Raises:
        ModelError: They differ, or onnxruntime refuses one of the two.
        CalibrationError: One does not take the samples.
    """
    before, after = start_session(original), start_session(made)
    names = [output.name for output in before.get_outputs()]
    some = Samples(feeds(before, samples, TRIED)[0], None, whole=True)
    wanted, got = (run_in_batches(session, names, some)[0] for session in (before, after))
    wrong = [name for name, one, other in zip(names, wanted, got, strict=True) if not _alike(one, other)]
    if wrong:
        raise ModelError(
            f"{original.name} is of an opset before {OLDEST_OPSET}, and brought up by onnx it answers otherwise in "
            f"{wrong[0]!r}.",
            remedy=f"Export it with opset {OLDEST_OPSET} or newer.",
        )


def _older(path: Path) -> onnx.ModelProto | None:
    """The file as a message, if it is a model without functions, of an older opset and small enough to be loaded."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            return None
        proto = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return None
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) > 1 and len(set(versions)) == 1:  # as scikit-learn's converter may write; onnx raises but one
        others = [entry for entry in proto.opset_import if entry.domain not in ("", "ai.onnx")]
        del proto.opset_import[:]
        proto.opset_import.extend([onnx.helper.make_opsetid("", versions[0]), *others])
    return proto if versions and 1 <= versions[0] < OLDEST_OPSET and not proto.functions else None


def _alike(want: Any, got: Any) -> bool:
    if isinstance(want, list) and isinstance(got, list):  # a sequence, of ZipMap's dictionaries for example
        pairs = [(_plain(one), _plain(other)) for one, other in zip(want, got, strict=False)]
        return len(want) == len(got) and all(_alike(one, other) for one, other in pairs)
    if not (isinstance(want, np.ndarray) and isinstance(got, np.ndarray)) or want.shape != got.shape:
        return False
    if want.dtype.kind != "f":
        return bool(np.array_equal(want, got))
    return agree(got, want, TOLERANCE, constant=1.0)


def _plain(value: Any) -> Any:
    return np.array(list(value.values())) if isinstance(value, dict) else value
