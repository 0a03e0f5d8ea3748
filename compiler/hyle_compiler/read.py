"""Read an ONNX model and refuse what cannot be compiled, before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from hyle_compiler.errors import ModelError
from hyle_compiler.matrices import is_stored, parts

__all__ = ["OLDEST_OPSET", "all_nodes", "check_stored", "read_model", "source_digest"]

OLDEST_OPSET = 13
SMALL_BYTES = 1 << 16
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def read_model(path: Path, physical: bool = False, stored: bool = True) -> ir.Model:
    """Read a model with its external data mapped, not loaded.

    Args:
        path: The file.
        physical: Whether nodes of the domain `hyle.physical` may have no function yet.
        stored: Whether to look for NaN in large external weights too (`check_stored` does it later). Infinity is a
            value like others, a mask's for example; only a matrix on physics must not hold it.

    Raises:
        ModelError: The file is missing, no ONNX, truncated, of an opset below 13, has an operator that nobody knows,
            weights that are NaN, or external data that is missing or outside the model's folder.
    """
    proto = _parse(path)
    _check_sound(proto, path)
    _check_external(proto, path)
    _unzip(proto)
    try:
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
    except Exception as error:
        raise ModelError(
            f"{path.name} is not a valid ONNX model: {_first_line(error)}.", remedy="Export the model again."
        ) from error
    _check_opset(model, path)
    _check_operators(model, ("hyle.physical",) if physical else ())
    _check_weights(model, stored=stored)
    _take_in(model)
    return model


def _take_in(model: ir.Model) -> None:
    """Load small weights from the files beside the model: they are used as they are, and a map of each costs more."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes < SMALL_BYTES:
                value.const_value = ir.tensor(np.array(tensor.numpy()), tensor.dtype, name=name)


def source_digest(path: Path) -> str:
    """SHA-256 of the model file, in hexadecimal; ModelError if there is none."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", remedy="Give the path of an ONNX model.")
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def all_nodes(graph: ir.Graph | ir.GraphView) -> Iterator[ir.Node]:
    """Every node of a graph, those of its subgraphs included."""
    yield from ir.traversal.RecursiveGraphIterator(graph)


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", remedy="Give the path of an ONNX model.")
    try:
        proto = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelError(
            f"{path.name} is not an ONNX file, or it is truncated.", remedy="Export the model again, or copy it whole."
        ) from error
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path.name} holds no ONNX graph.", remedy="Give a model exported to ONNX.")
    return proto


def _fields(message: Message, kind: int) -> Iterator[tuple[str, Any]]:
    """Names of a message's fields of one type, with each value in them; no other field is read: weights are large."""
    for field in message.DESCRIPTOR.fields:
        if field.type != kind:
            continue
        value = getattr(message, field.name)
        if isinstance(value, (str, bytes)):
            yield field.full_name, value
        elif not isinstance(value, Message):
            yield from ((field.full_name, one) for one in value)
        elif message.HasField(field.name):
            yield field.full_name, value


def _messages(message: Message) -> Iterator[Message]:
    """A message and all those within it."""
    waiting = [message]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [value for _, value in _fields(one, FieldDescriptor.TYPE_MESSAGE)]


def _check_sound(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse what protobuf reads but nobody can use: text that is none (it comes as bytes), and untyped values."""
    for message in _messages(proto):
        for name, text in _fields(message, FieldDescriptor.TYPE_STRING):
            if isinstance(text, bytes):
                raise _damaged(path, f"{name} is no UTF-8 text")
        if isinstance(message, onnx.AttributeProto) and message.type == onnx.AttributeProto.UNDEFINED:
            raise _damaged(path, f"the attribute {message.name!r} has no type")
        if isinstance(message, onnx.TensorProto) and message.data_type == onnx.TensorProto.UNDEFINED:
            raise _damaged(path, f"the tensor {message.name!r} has no type")


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path.name} is damaged: {what}.", remedy="Export the model again, or copy it whole.")


def _unzip(proto: onnx.ModelProto) -> None:
    """Give out the scores that ZipMap makes dictionaries of, as scikit-learn's converter does unless told otherwise."""
    outputs = {value.name: value for value in proto.graph.output}
    for node in proto.graph.node:
        if node.op_type != "ZipMap" or node.domain != "ai.onnx.ml" or len(node.output) != 1:
            continue
        classes = [max(len(attribute.ints), len(attribute.strings)) for attribute in node.attribute]
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        value = outputs.get(node.output[0])
        if value is not None:
            made = onnx.helper.make_tensor_value_info(
                value.name, onnx.TensorProto.FLOAT, [None, max(classes, default=1)]
            )
            value.CopyFrom(made)


def _check_external(proto: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in _messages(proto):
        if not isinstance(tensor, onnx.TensorProto) or tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        target = (folder / entries.get("location", "")).resolve()
        if not target.is_relative_to(folder):
            raise ModelError(
                f"Weight {tensor.name!r} lies outside the model's folder.",
                remedy="Keep external data beside the model.",
            )
        if not target.is_file():
            raise ModelError(
                f"The external data file {entries.get('location')!r} is missing.", remedy="Copy it beside the model."
            )
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
        except ValueError as error:
            raise ModelError(
                f"Weight {tensor.name!r} has a broken external offset.", remedy="Export the model again."
            ) from error
        if offset < 0 or length < 0 or offset + length > target.stat().st_size:
            raise ModelError(
                f"The external data of weight {tensor.name!r} is truncated.", remedy="Copy the data file whole."
            )


def _check_opset(model: ir.Model, path: Path) -> None:
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    newest = onnx.defs.onnx_opset_version()
    if version is None or not OLDEST_OPSET <= version <= newest:
        raise ModelError(
            f"{path.name} is of opset {version}; {OLDEST_OPSET} to {newest} are supported.",
            remedy=f"Export with opset {OLDEST_OPSET} or newer, or convert it with onnx.version_converter.",
        )


def _check_operators(model: ir.Model, domains: tuple[str, ...]) -> None:
    local = {identifier[:2] for identifier in model.functions}
    version = model.opset_imports.get("", 0)
    for node in all_nodes(model.graph):
        if (node.domain, node.op_type) in local or node.domain not in ("", "ai.onnx"):
            if node.domain not in (*STANDARD_DOMAINS, *domains) and (node.domain, node.op_type) not in local:
                raise ModelError(
                    f"Node {node.name!r} is a {node.op_type} of the unknown domain {node.domain!r}.",
                    remedy="Export the model with standard ONNX operators.",
                )
            continue
        if not onnx.defs.has(node.op_type, version, ""):
            raise ModelError(
                f"Node {node.name!r} is a {node.op_type}, which opset {version} does not have.",
                remedy="Export the model with standard ONNX operators.",
            )


def check_stored(model: ir.Model) -> None:
    """Raise ModelError where a large external weight holds NaN; it is read in parts."""
    for name, value in model.graph.initializers.items():
        if value.const_value is not None and is_stored(value.const_value):
            _check_weight(name, value.const_value)


def _check_weights(model: ir.Model, *, stored: bool) -> None:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            raise ModelError(f"Weight {name!r} has no data.", remedy="Export the model with its weights.")
        if stored or not is_stored(tensor):
            _check_weight(name, tensor)


def _check_weight(name: str, tensor: ir.TensorProtocol) -> None:
    if not tensor.dtype.is_floating_point():
        return
    try:
        known = all(not np.isnan(part.astype(np.float32)).any() for part in parts(tensor))
    except Exception as error:
        raise ModelError(
            f"Weight {name!r} cannot be read: {_first_line(error)}.", remedy="Export the model again."
        ) from error
    if not known:
        raise ModelError(f"Weight {name!r} holds NaN.", remedy="Train or export the model again.")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
