"""Simplify the digital graph: inline functions, fold constants and batch normalisation, drop the unused, normalise."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules.common import _fuse_batchnorm

from hyle_compiler.errors import ModelError
from hyle_compiler.normalise import normalise
from hyle_compiler.normalise.unique_names import name_uniquely
from hyle_compiler.separate_outputs import separate_outputs

__all__ = ["simplify"]

_ALLOWZERO = 14
_NUM_OUTPUTS = 18
_REARRANGING = {"Concat", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"}
_MOST_REARRANGED_BYTES = 2**24

logging.getLogger("onnxscript").setLevel(logging.ERROR)
logging.getLogger("onnx_ir").setLevel(logging.ERROR)


def simplify(model: ir.Model) -> ir.Model:
    """Return an equal model that is easier to map; the given one is used up.

    Raises:
        ModelError: The graph is not consistent.
    """
    try:
        # Before the optimizer, which would give an input that is an output as well another name.
        separate_outputs(model, [str(value.name) for value in model.graph.outputs])
        names = [str(value.name) for value in model.graph.outputs]
        optimizer.optimize_ir(model, should_fold=_rearranges)
        _drop_newer_attributes(model)
        rewriter.rewrite(model, pattern_rewrite_rules=_fuse_batchnorm.rules)
        for step in (
            common.LiftConstantsToInitializersPass(),
            common.LiftSubgraphInitializersToMainGraphPass(),
            common.RemoveInitializersFromInputsPass(),
            common.IdentityEliminationPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
            common.TopologicalSortPass(),
        ):
            step(model)
        normalise(model)
        separate_outputs(model, names)
        common.NameFixPass()(model)
        name_uniquely(model)
    except Exception as error:
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"The graph is not consistent: {text}", remedy="Check the model with onnx.checker.") from error
    return model


def _rearranges(node: ir.Node) -> bool | None:
    """Whether a node is folded although its values are many: torch writes an LSTM's gates as slices put together anew.

    Returns:
        True for weights that are only rearranged, of moderate size; None leaves it to the optimizer.
    """
    if node.op_type not in _REARRANGING or node.domain not in ("", "ai.onnx"):
        return None
    tensors = [ir.convenience.get_const_tensor(value) for value in node.inputs if value is not None]
    known = [tensor for tensor in tensors if tensor is not None]
    fits = len(known) == len(tensors) and sum(tensor.nbytes for tensor in known) <= _MOST_REARRANGED_BYTES
    return True if fits else None


def _drop_newer_attributes(model: ir.Model) -> None:
    """Take from Reshape and Split what older opsets do not have yet and the optimizer writes all the same.

    It gives `allowzero` where it found the shape to be constant; without a zero in it the attribute means nothing. It
    gives `num_outputs` where all parts are equal, which is what Split makes of no sizes.
    """
    version = model.opset_imports.get("", _NUM_OUTPUTS)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type == "Reshape" and node.domain == "" and "allowzero" in node.attributes and version < _ALLOWZERO:
            shape = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
            if shape is not None and 0 not in shape.numpy():
                del node.attributes["allowzero"]
        if node.op_type == "Split" and node.domain == "" and version < _NUM_OUTPUTS:
            node.attributes.pop("num_outputs", None)
