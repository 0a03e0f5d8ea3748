"""Getting a model ready to be walked: physical nodes marked, tensors laid out, digital weights copied, segments cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import onnx_ir as ir
from hyle_bundle import TensorSpec, TensorWriter
from hyle_bundle.tensor_spec import DTYPES
from hyle_substrates.profile import Profile
from onnx_ir.passes import common

from hyle_compiler.bodies import DOMAIN
from hyle_compiler.errors import ModelError
from hyle_compiler.matrices import StoredMatrix, parts
from hyle_compiler.place import Spans, level_type
from hyle_compiler.tensors import INLINE_BYTES, Stored

__all__ = ["copy_digital", "digital_tensors", "layer_specs", "located", "mark", "point"]

WORDS = {dtype: word for word, dtype in DTYPES.items() if word != "BF16"}
MOST_INLINE_BYTES = 1 << 30


def mark(model: ir.Model, layers: Sequence[Spans]) -> tuple[Spans, ...]:
    """Put a node that names its layer in the place of each physical operator, so that its weight drops out."""
    marked = []
    for spans in layers:
        old, layer = spans.layer.node, spans.layer
        # Where another layer makes it, that one's node was replaced before, and its output with it.
        x = next(value for value in old.inputs if value is not None and value.name == layer.x.name)
        stub = ir.node(layer.name, [x], domain=DOMAIN, name=layer.name)
        output = stub.outputs[0]
        output.shape, output.type = old.outputs[0].shape, old.outputs[0].type
        ir.convenience.replace_nodes_and_values(model.graph, old, [old], [stub], [old.outputs[0]], [output])
        marked.append(Spans(dataclasses.replace(layer, node=stub, x=x, y=output), spans.blocks))
    common.RemoveUnusedNodesPass()(model)
    return tuple(marked)


def layer_specs(spans: Spans, profile: Profile) -> list[TensorSpec]:
    """What `programming.safetensors` holds of a layer; perfect matter keeps half precision as it is."""
    layer = spans.layer
    kind = WORDS[level_type(profile)]
    matrix = layer.matrix
    half = isinstance(matrix, StoredMatrix) and matrix.tensor.dtype is ir.DataType.FLOAT16 and matrix.factor == 1.0
    if half and not profile.weights.levels:
        kind = "F16"
    cols = matrix.shape[1]
    found = [TensorSpec(f"{layer.name}/{name}", "F32", ()) for name in ("full_scale", "noise")]
    found.append(TensorSpec(f"{layer.name}/offset", "F32", (cols,)))
    for index, ((start, stop), _) in enumerate(spans.blocks):
        shape: tuple[int, ...] = (stop - start, cols)
        if layer.geometry is not None:
            taps = int(np.prod(layer.geometry.kernel))
            shape = (cols, -(-stop // taps) - start // taps, *layer.geometry.kernel)
        found += [
            TensorSpec(f"{layer.name}/{index}/levels", kind, shape),
            TensorSpec(f"{layer.name}/{index}/gain", "F32", (cols,)),
        ]
    return found


def digital_tensors(model: ir.Model, prefix: str = "digital/") -> dict[TensorSpec, ir.TensorProtocol]:
    """Initializers that are large enough to be kept outside of the graph; they are renamed with `prefix`.

    Raises:
        ModelError: What must stay inside is more than a graph can hold.
    """
    found, inline = {}, 0
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        word = "BF16" if tensor.dtype is ir.DataType.BFLOAT16 else WORDS.get(_plain(tensor))
        if tensor.nbytes < INLINE_BYTES or word is None:
            inline += tensor.nbytes
            continue
        value.name = prefix + name
        found[TensorSpec(prefix + name, word, tuple(int(size) for size in tensor.shape.numpy()))] = tensor
    if inline > MOST_INLINE_BYTES:
        raise ModelError(
            f"{inline / 1e9:.1f} GB of weights are of types that no bundle holds apart, such as 4-bit ones.",
            remedy="Export the weights as float16, float32 or int8.",
        )
    return found


def _plain(tensor: ir.TensorProtocol) -> np.dtype[np.generic]:
    return np.dtype(tensor.dtype.numpy()) if tensor.dtype is not ir.DataType.STRING else np.dtype(object)


def copy_digital(writer: TensorWriter, name: str, tensor: ir.TensorProtocol) -> None:
    """Copy a tensor in parts.

    Raises:
        ModelError: A value is NaN.
    """
    start = 0
    for part in parts(tensor):
        if tensor.dtype.is_floating_point() and np.isnan(part.astype(np.float32)).any():
            raise ModelError(f"Weight {tensor.name!r} holds NaN.", remedy="Train or export the model again.")
        writer.write(name, part.view(np.uint16) if tensor.dtype is ir.DataType.BFLOAT16 else part, start)
        start += part.size


def located(specs: Sequence[TensorSpec], layout: dict[str, tuple[int, int]]) -> dict[str, Stored]:
    """The tensors of a file that is written already, as graphs refer to them."""
    return {spec.name: Stored(spec, _made, layout[spec.name][0]) for spec in specs}


def _made() -> NoReturn:
    raise AssertionError("the tensor is in its file already")


def point(model: ir.Model, tensors: dict[str, Stored]) -> None:
    """Let the graph's large initializers point into the tensor file."""
    for name, value in model.graph.initializers.items():
        if name in tensors and value.const_value is not None:
            value.const_value = tensors[name].external(value.const_value.dtype)
