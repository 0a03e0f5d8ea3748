"""onnxruntime sessions of a bundle's graphs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from hyle_errors import InternalError

from hyle_runtime import kernels

__all__ = ["REQUANTISING", "SessionError", "start"]

_LOG = logging.getLogger(__name__)
# onnxruntime would quantise float weights between quantised values anew, to one scale a tensor.
REQUANTISING = ["WeightBiasQuantization"]


class SessionError(InternalError):
    """onnxruntime refused a graph of a bundle."""


def start(
    path: Path,
    *,
    threads: int = 0,
    replace: Mapping[str, np.ndarray[Any, Any]] | None = None,
    keep_memory: bool = False,
    converters: bool = False,
) -> ort.InferenceSession:
    """Start a session on the CPU.

    Args:
        path: The graph; its weights lie beside it.
        threads: Threads for one operator; 0 for as many as there are cores.
        replace: Initializers that take the place of the graph's own, by name.
        keep_memory: Keep what a run needed for the next one, instead of giving it back to the system and asking again.
        converters: Take compiled operators for the converters that the graph calls, where there are any.

    Raises:
        SessionError: onnxruntime refuses the graph.
    """
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.array(a, copy=True)) for name, a in (replace or {}).items()}
    options = _options(values, threads=threads, keep_memory=keep_memory)
    if converters and kernels.register(options):
        try:
            return _session(path, options)
        except Exception as error:
            # What the graph says is right without them, whatever a release of onnxruntime makes of them.
            _LOG.warning("twins take longer, as onnxruntime refuses the compiled converters: %s", _first_line(error))
            options = _options(values, threads=threads, keep_memory=keep_memory)
    try:
        return _session(path, options)
    except Exception as error:
        text = _first_line(error)
        raise SessionError(f"onnxruntime refuses {path.name}: {text}", remedy="Compile the bundle again.") from error


def _options(values: Mapping[str, ort.OrtValue], *, threads: int, keep_memory: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = keep_memory
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    return options


def _session(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=REQUANTISING)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
