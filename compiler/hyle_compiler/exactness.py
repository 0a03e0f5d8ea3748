"""Hold the compiled model on perfect matter against the float model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from hyle_compiler.errors import ModelError, VerificationError

__all__ = ["IDEAL_TOLERANCE", "agree", "check_ideal", "require_number", "require_samples_first", "tolerance_of"]

Array = np.ndarray[Any, Any]
IDEAL_TOLERANCE = 1e-4
EDGE_SHARE = 0.05
ROUNDINGS = 8
OWN_ROUNDINGS = 4.0
# What differs by more from itself does not round, it draws: 64 steps of float32.
RANDOM = 64 * 2.0**-23
STEPS = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7}


def tolerance_of(model: ir.Model) -> float:
    """Largest difference, as a share of the answers' range, that rounding explains.

    Where a model computes in float16 or bfloat16, the same product in float32 rounds elsewhere: each operator moves an
    answer by half a step of its type at most, and 256 such half steps in a row add up to 8 steps, as roots add.
    """
    types = {value.dtype for node in ir.traversal.RecursiveGraphIterator(model.graph) for value in node.outputs}
    return max([IDEAL_TOLERANCE, *(ROUNDINGS * step for kind, step in STEPS.items() if kind in types)])


def agree(got: Array, want: Array, share: float, *, constant: float = 0.0) -> bool:
    """Whether arrays of numbers, of one shape, differ by no more than a share of the range of `want`.

    Args:
        got: One array.
        want: The other.
        share: Of the range of its finite values.
        constant: What is taken for the range where they are all the same.
    """
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = b[np.isfinite(b)]
    extent = (float(np.ptp(finite)) if finite.size else 0.0) or constant
    return bool(np.allclose(a, b, rtol=0.0, atol=share * extent, equal_nan=True))


def check_ideal(got: Array, want: Array, tolerance: float, again: Callable[[], Array | None] = lambda: None) -> None:
    """Compare answers.

    Args:
        got: The compiled model's.
        want: The float model's.
        tolerance: Share of the range of `want` by which they may differ.
        again: The float model's once more, as rounding may change them, where that can be had. Where its own
            rounding is as large as the answers' range (a detector that sees nothing answers 1e-7 everywhere), a few
            times what it differs from itself is no fault.

    Raises:
        VerificationError: They differ by more; or, where they are integers, too many by more than one; or, where they
            are text, too many at all.
    """
    if want.dtype.kind in "iub":
        _check_codes(got, want)
        return
    if want.dtype.kind in "OSU":
        _check_text(got, want)
        return
    known = np.isfinite(want)
    exact, same = want[known].astype(np.float64), np.array_equal(got[~known], want[~known], equal_nan=True)
    extent = (float(np.ptp(exact)) if exact.size else 0.0) or 1.0
    worst = float(np.abs(got[known] - exact).max(initial=0.0)) / extent if same else np.inf
    if not worst <= tolerance:
        other = again()
        own = 0.0 if other is None else float(np.abs(other[known] - exact).max(initial=0.0))
        if own <= RANDOM * max(1.0, float(np.abs(exact).max(initial=0.0))) and worst * extent <= OWN_ROUNDINGS * own:
            return
        raise VerificationError(
            f"On perfect matter the compiled model differs from the float model by {worst:.2g} of its range.",
            remedy="This is a fault of the compiler or of a random operator in the model: report it with the model.",
        )


def require_number(residual: float) -> float:
    """The residual of twin instances; VerificationError if it is not finite, as no bound can be taken from it."""
    if not np.isfinite(residual):
        raise VerificationError(
            "On the twin the model answers with NaN or infinity where the float model does not.",
            remedy="Leave what cannot take a noisy number (a Log, Sqrt or Div after a layer) out of the model, or give "
            "a target with less noise.",
        )
    return residual


def require_samples_first(output: str, answers: Mapping[str, Array]) -> None:
    """ModelError unless an output is among the answers, arrays by name, whose first axis counts samples."""
    if output not in answers:
        raise ModelError(
            f"The first axis of output {output!r} does not count samples.",
            remedy="Export the model with samples first in its inputs and its first output.",
        )


def _check_text(got: Array, want: Array) -> None:
    """Answers that are names: two that score alike may change places, and few do."""
    apart = float(np.mean(got != want))
    if not apart <= EDGE_SHARE:
        raise VerificationError(
            f"On perfect matter {100 * apart:.1f} % of the answers are other words than the model's.",
            remedy="This is a fault of the compiler or of a random operator in the model: report it with the model.",
        )


def _check_codes(got: Array, want: Array) -> None:
    """Answers that are integers: a sum on the edge between two codes may round either way, and few lie there."""
    apart = float(np.mean(np.abs(got.astype(np.float64) - want.astype(np.float64)) > 1))
    if not apart <= EDGE_SHARE:
        raise VerificationError(
            f"On perfect matter {100 * apart:.1f} % of the integer answers are more than one code from the model's.",
            remedy="This is a fault of the compiler or of a random operator in the model: report it with the model.",
        )
