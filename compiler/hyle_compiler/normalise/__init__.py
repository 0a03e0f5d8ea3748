"""Passes that bring operators into the forms that go on physics: MatMul, Gemm and Conv with a constant on the right."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from hyle_compiler.normalise.brain_floats import compute_brain_floats
from hyle_compiler.normalise.convolution_groups import split_convolution_groups
from hyle_compiler.normalise.convolution_transpose import turn_convolution_transpose
from hyle_compiler.normalise.einsum import turn_einsum
from hyle_compiler.normalise.gemm_operands import turn_gemm_operands
from hyle_compiler.normalise.integer_operators import turn_integer_operators
from hyle_compiler.normalise.integer_weights import fold_integer_weights
from hyle_compiler.normalise.linear_models import turn_linear_models
from hyle_compiler.normalise.matmul_operands import turn_matmul_operands
from hyle_compiler.normalise.recurrent import turn_recurrent
from hyle_compiler.normalise.unique_names import name_uniquely
from hyle_compiler.normalise.wide_weights import widen

__all__ = ["PASSES", "normalise"]

PASSES: tuple[Callable[[ir.Model], None], ...] = (
    name_uniquely,
    fold_integer_weights,
    turn_integer_operators,
    widen,
    compute_brain_floats,
    turn_linear_models,
    turn_recurrent,
    turn_einsum,
    turn_convolution_transpose,
    split_convolution_groups,
    turn_gemm_operands,
    turn_matmul_operands,
)


def normalise(model: ir.Model) -> None:
    """Rewrite all graphs in place; every pass leaves the model's answers as they are up to rounding."""
    for step in PASSES:
        step(model)
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)
    name_uniquely(model)
