"""Bad input gets a sentence and a remedy, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compiler_models import model_folder
from hyle_compiler.errors import ModelError
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import TensorProto, helper, numpy_helper

from hyle.cli import main

Case = Callable[[Path], list[str]]
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])


def model(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray[Any, Any]], opset: int = 17, **other: Any
) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [X], [Y], initializers)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **other), str(path)
    )
    return path


def good(path: Path) -> Path:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    return model(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight})


def samples(path: Path, **arrays: Any) -> Path:
    given = arrays or {"x": np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)}
    np.savez(path, **given)
    return path


def arguments(folder: Path, **replaced: Any) -> list[str]:
    chosen = {
        "model": folder / "m.onnx",
        "target": "pcm-generic",
        "calib": folder / "c.npz",
        "out": folder / "out" / "m.hyle",
    }
    chosen |= replaced
    (folder / "out").mkdir(exist_ok=True)
    if not (folder / "m.onnx").exists():
        good(folder / "m.onnx")
    if not (folder / "c.npz").exists():
        samples(folder / "c.npz")
    return [
        str(chosen["model"]),
        "--target",
        str(chosen["target"]),
        "--calib",
        str(chosen["calib"]),
        "-o",
        str(chosen["out"]),
    ]


def no_onnx(folder: Path) -> list[str]:
    (folder / "m.onnx").write_bytes(b"this is a text, not a model " * 100)
    return arguments(folder)


def truncated(folder: Path) -> list[str]:
    whole = (model_folder("digits_mlp") / "model.onnx").read_bytes()
    (folder / "m.onnx").write_bytes(whole[: len(whole) // 2])
    return arguments(folder)


def empty(folder: Path) -> list[str]:
    (folder / "m.onnx").write_bytes(b"")
    return arguments(folder)


def unknown_operator(folder: Path) -> list[str]:
    model(folder / "m.onnx", [helper.make_node("Frobnicate", ["x", "w"], ["y"])], {"w": np.ones((4, 3), np.float32)})
    return arguments(folder)


def unknown_domain(folder: Path) -> list[str]:
    node = helper.make_node("Anything", ["x", "w"], ["y"], domain="org.example")
    model(folder / "m.onnx", [node], {"w": np.ones((4, 3), np.float32)})
    return arguments(folder)


def old_opset(folder: Path) -> list[str]:
    """With external data, which is not brought up."""
    model(
        folder / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((4, 3), np.float32)}, opset=9
    )
    held = onnx.load(str(folder / "m.onnx"))
    onnx.save(held, str(folder / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    return arguments(folder)


def weights(value: float) -> Case:
    def case(folder: Path) -> list[str]:
        weight = np.ones((4, 3), np.float32)
        weight[2, 1] = value
        model(folder / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight})
        return arguments(folder)

    return case


def nothing_fits(folder: Path) -> list[str]:
    model(folder / "m.onnx", [helper.make_node("Slice", ["x", "a", "b", "c"], ["y"])], {
        "a": np.array([0]), "b": np.array([3]), "c": np.array([1]),
    })  # fmt: skip
    return arguments(folder)


def calibration(**arrays: Any) -> Case:
    return lambda folder: arguments(folder, calib=samples(folder / "wrong.npz", **arrays))


def calibration_text(folder: Path) -> list[str]:
    (folder / "wrong.npz").write_text("no array")
    return arguments(folder, calib=folder / "wrong.npz")


def output_in_nowhere(folder: Path) -> list[str]:
    return arguments(folder, out=folder / "out" / "missing" / "m.hyle")


def output_is_a_folder(folder: Path) -> list[str]:
    return arguments(folder, out=folder / "out")


def external(location: str, length: int | None, write: int | None) -> Case:
    def case(folder: Path) -> list[str]:
        good(folder / "m.onnx")
        proto = onnx.load(str(folder / "m.onnx"))
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": str(length or 48)}.items():
            tensor.external_data.add(key=key, value=value)
        (folder / "m.onnx").write_bytes(proto.SerializeToString())
        if write is not None:
            (folder / "w.bin").write_bytes(b"\0" * write)
        return arguments(folder)

    return case


def within_a_branch(folder: Path) -> list[str]:
    """External data beside the way, of a constant within a branch of an If."""
    good(folder / "m.onnx")
    proto = onnx.load(str(folder / "m.onnx"))
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../w.bin")
    (folder.parent / "w.bin").write_bytes(b"\0" * 64)
    constant = helper.make_node("Constant", [], ["inner"], value=tensor)
    info = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])
    branch = helper.make_graph([constant], "branch", [], [info])
    flag = helper.make_node("Constant", [], ["flag"], value=helper.make_tensor("f", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch)
    proto.graph.node.extend([flag, choice])
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return arguments(folder)


def damaged(change: Callable[[bytes], bytes]) -> Case:
    def case(folder: Path) -> list[str]:
        good(folder / "m.onnx")
        (folder / "m.onnx").write_bytes(change((folder / "m.onnx").read_bytes()))
        return arguments(folder)

    return case


def untyped_attribute(data: bytes) -> bytes:
    proto = onnx.load_from_string(data)
    proto.graph.node[0].attribute.add(name="alpha", f=1.0)
    return proto.SerializeToString()


def untyped_weight(data: bytes) -> bytes:
    proto = onnx.load_from_string(data)
    proto.graph.initializer[0].data_type = TensorProto.UNDEFINED
    return proto.SerializeToString()


def text_weight(folder: Path) -> list[str]:
    """A constant of strings that nothing needs: no weight, and no reason to stop."""
    good(folder / "m.onnx")
    proto = onnx.load(str(folder / "m.onnx"))
    proto.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"]))
    onnx.save(proto, str(folder / "m.onnx"))
    return arguments(folder)


def wide_chip(folder: Path) -> list[str]:
    wide = np.random.default_rng(0).normal(size=(4, 300 * 256)).astype(np.float32)
    model(folder / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": wide})
    proto = onnx.load(str(folder / "m.onnx"))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 300 * 256
    onnx.save(proto, str(folder / "m.onnx"))
    return arguments(folder, target="pcm-hermes")


def wrong_profile(folder: Path) -> list[str]:
    (folder / "p.toml").write_text(
        'name = "p"\nsubstrate = "pcm"\ntitle = ""\nsources = ["x"]\nvalidity = ""\n[array]\nrows = 0\ncols = 1\n'
    )
    return arguments(folder, target=folder / "p.toml")


FINE = np.zeros((5, 4), np.float32)
CASES: dict[str, tuple[Case, str]] = {
    "missing model": (lambda f: arguments(f, model=f / "none.onnx"), "no file"),
    "no onnx": (no_onnx, "not an ONNX file"),
    "truncated": (truncated, "truncated"),
    "empty": (empty, "ONNX"),
    "unknown operator": (unknown_operator, "Frobnicate"),
    "unknown domain": (unknown_domain, "org.example"),
    "opset 9": (old_opset, "opset 9"),
    "NaN weight": (weights(float("nan")), "'w'"),
    "infinite weight": (weights(float("inf")), "weight of"),
    "nothing fits": (nothing_fits, "No layer"),
    "missing calibration": (lambda f: arguments(f, calib=f / "none.npz"), "no file"),
    "calibration is no npz": (calibration_text, "not an .npz"),
    "calibration names": (calibration(z=FINE), "['z']"),
    "calibration shapes": (calibration(x=np.zeros((5, 7), np.float32)), "(5, 7)"),
    "calibration rank": (calibration(x=np.zeros(5, np.float32)), "(5,)"),
    "calibration types": (calibration(x=np.zeros((5, 4), np.float64)), "float64"),
    "calibration empty": (calibration(x=np.zeros((0, 4), np.float32)), "0"),
    "calibration NaN": (calibration(x=np.full((5, 4), np.nan, np.float32)), "NaN"),
    "labels of another length": (calibration(x=FINE, labels=np.zeros(3, np.int64)), "labels"),
    "unknown target": (lambda f: arguments(f, target="unobtainium"), "unobtainium"),
    "wrong profile": (wrong_profile, "array.rows"),
    "chip too small": (wide_chip, "300 tiles"),
    "output in a folder that is not there": (output_in_nowhere, "cannot be written"),
    "output is a folder": (output_is_a_folder, "cannot be written"),
    "external data missing": (external("w.bin", 48, None), "w.bin"),
    "external data truncated": (external("w.bin", 48, 40), "truncated"),
    "external data outside": (external("../w.bin", 48, 48), "outside"),
    "external data absolute": (external("/etc/hostname", 4, None), "outside"),
    "external data outside, in a branch": (within_a_branch, "outside"),
    "an operator's name is no text": (
        damaged(lambda data: data.replace(b"MatMul", b"MatM\xffl")),
        "op_type is no UTF-8",
    ),
    "an attribute without a type": (damaged(untyped_attribute), "'alpha' has no type"),
    "a weight without a type": (damaged(untyped_weight), "'w' has no type"),
    "copies": (lambda f: [*arguments(f), "--copies", "0"], "--copies"),
    "missing key": (lambda f: [*arguments(f), "--key", str(f / "none.key")], "none.key"),
}


def everything(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_a_remedy_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, word = CASES[name]
    command = case(tmp_path)
    before = everything(tmp_path)
    assert main(["compile", *command]) == 2
    said = capsys.readouterr()
    assert word in said.err
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said.err.splitlines()[-1].strip().endswith((".", ")"))
    assert "Traceback" not in said.err
    assert said.out == ""
    assert everything(tmp_path) == before


def test_an_error_is_one_json_document_when_json_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", *no_onnx(tmp_path), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"error", "remedy"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments(tmp_path)
    (tmp_path / "out").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert main(["compile", *command]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    command = arguments(tmp_path)
    assert main(["compile", *command]) == 0
    old = (tmp_path / "out" / "m.hyle").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        code = main(["compile", *command, "--version", "2"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "out" / "m.hyle").read_bytes() == old
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.hyle"]


def test_an_unknown_verb_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frobnicate"]) == 2
    assert "compile" in capsys.readouterr().err


def test_help_and_version_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert main(["compile", "--help"]) == 0
    assert "hyle" in capsys.readouterr().out


def test_a_constant_of_strings_is_no_obstacle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", *text_weight(tmp_path)]) == 0, capsys.readouterr().err


def test_an_input_of_words_is_refused_with_what_to_do(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (string[N,6] x) => (float[N,2] y) '
    model = onnx.parser.parse_model(text + "{ c = Cast<to = 1>(x)  y = MatMul(c, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 2), np.float32), "w"))
    onnx.save(model, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=np.full((5, 6), "1.5"))
    profile, toml = find_profile("ideal")
    with pytest.raises(ModelError, match="'x' is text") as caught:
        compile_model(tmp_path / "m.onnx", tmp_path / "c.npz", profile, toml, tmp_path / "o.hyle", Options())
    assert "numbers" in str(caught.value.remedy)
