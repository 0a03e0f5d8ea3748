"""What holds for every room: who may import whom, what a base import loads, what every public thing says of itself."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "hyle_errors": "errors",
    "hyle_protos": "protos",
    "hyle_substrates": "substrates",
    "hyle_bundle": "bundle",
    "hyle_runtime": "runtime",
    "hyle_compiler": "compiler",
    "hyle_agent": "edge_agent",
    "hyle_deploy": "deploy",
    "hyle": ".",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(room: str) -> list[Path]:
    found = (ROOT / ROOMS[room] / room).rglob("*.py")
    return sorted(path for path in found if not path.stem.endswith(("_pb2", "_pb2_grpc")))


def modules(*rooms: str) -> list[str]:
    names = []
    for room in rooms:
        for path in sources(room):
            parts = path.relative_to(ROOT / ROOMS[room]).with_suffix("").parts
            if parts[-1] != "__main__":
                names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def loaded_by(*names: str) -> set[str]:
    script = (
        "import importlib, json, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *names], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_every_room_is_where_the_table_says():
    folders = {
        path.name
        for folder in ROOT.iterdir()
        if folder.is_dir()
        for path in folder.glob("hyle_*")
        if (path / "__init__.py").is_file()
    }
    assert folders == set(ROOMS) - {"hyle"}


def test_import_contracts_hold():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_agent_loads_neither_onnx_nor_torch_nor_the_compiler():
    strangers = {"onnx", "torch", "ndonnx", "spox", "onnx_ir", "onnxscript", "hyle_compiler", "hyle_deploy", "rich"}
    loaded = loaded_by(*modules("hyle_agent"))
    assert "hyle_agent" in loaded
    assert not loaded & strangers


def test_the_client_loads_neither_onnx_nor_torch_nor_a_runtime():
    loaded = loaded_by("hyle_deploy.client", "hyle_deploy.query", "hyle_deploy.watch")
    assert not loaded & {"onnx", "torch", "onnxruntime", "ndonnx", "hyle_substrates", "hyle_agent", "hyle_compiler"}


def test_import_hyle_loads_nothing_heavy():
    assert not loaded_by("hyle", "hyle.cli") & {"numpy", "onnx", "onnxruntime", "torch", "grpc", "paho", "cryptography"}


@pytest.mark.parametrize("room", ["hyle_runtime", "hyle_agent", "hyle_compiler"])
def test_onnxruntime_does_not_report_to_its_makers(room, tmp_path):
    """From 1.29 on it sends usage to its makers unless ORT_DISABLE_TELEMETRY is set before its import.

    Its identifier and queue in the user's cache folder are the sign of it.
    """
    silent = {"ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in silent}
    environment |= {"HOME": str(tmp_path / "home"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    (tmp_path / "home").mkdir()
    script = "import importlib, sys\nfor name in sys.argv[2:]: importlib.import_module(name)\n"
    script += "import onnxruntime\nonnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    model = ROOT / "tests" / "data" / "digits_mlp" / "model.onnx"
    command = [sys.executable, "-c", script, str(model), *modules(room)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "manager", "misc"])
def test_no_module_has_a_name_that_says_nothing(word):
    assert [path for room in ROOMS for path in sources(room) if path.stem == word] == []


def public_definitions(path: Path) -> Iterator[tuple[str, Function]]:
    """Public functions of a module, and public methods of its public classes."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for item in node.body:
                if isinstance(item, Function) and not item.name.startswith("_"):
                    yield f"{node.name}.{item.name}", item


def bare_arguments(function: Function) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [one.arg for one in named if one and one.annotation is None and one.arg not in {"self", "cls"}]


def is_overload(function: Function) -> bool:
    return any(
        "overload" in ast.unparse(decorator) or ".setter" in ast.unparse(decorator)
        for decorator in function.decorator_list
    )


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_public_function_has_a_docstring_and_types(room):
    missing = []
    for path in sources(room):
        for name, function in public_definitions(path):
            where = f"{path.relative_to(ROOT)}:{function.lineno} {name}"
            if not is_overload(function) and not ast.get_docstring(function):
                missing.append(f"{where}: no docstring")
            if function.returns is None or bare_arguments(function):
                missing.append(f"{where}: no annotation of {bare_arguments(function) or 'the result'}")
    assert missing == []


ARRAYS = re.compile(r"\b(?:Array|Float32s|Codes|Weights|ndarray|Levels32)\b")
SHAPES = re.compile(
    r"\bby\b|\bshape|\baxis\b|\baxes\b|\bscalar\b|\bone (?:a|an|for)\b|\beach\b|\bevery\b|\bbatch|\bsamples?\b"
    r"|Contract: `|\bcolumns?\b|\brows?\b|\bvectors?\b|\bvalues\b|\belement|\blayout\b|\barrays?\b"
    r"|\btensors?\b|\bcodes\b",
    re.IGNORECASE,
)
MEASURED = re.compile(
    r"(?:^|_)(?:timeout|age|latency|energy|power|duration|delay|interval|period|voltage|current|phase)$"
)


def arguments_of(function: Function) -> list[ast.arg]:
    given = function.args
    return [*given.posonlyargs, *given.args, *given.kwonlyargs]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_public_function_of_arrays_says_their_shapes(room):
    """In its docstring, or that of the class it belongs to: a word of shapes, or that the arrays go by name."""
    silent = []
    for path in sources(room):
        tree = ast.parse(path.read_text())
        classes = {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.ClassDef)}
        for name, function in public_definitions(path):
            annotations = [one.annotation for one in arguments_of(function)] + [function.returns]
            if any(ARRAYS.search(ast.unparse(one)) for one in annotations if one):
                text = (ast.get_docstring(function) or "") + classes.get(name.partition(".")[0], "")
                if not is_overload(function) and not SHAPES.search(text):
                    silent.append(f"{path.relative_to(ROOT)}:{function.lineno} {name}")
    assert silent == []


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_measured_number_of_a_public_function_has_its_unit(room):
    """In its name (`age_s`), or in the docstring in words."""
    units = re.compile(
        r"\b(?:s|ms|seconds?|milliseconds?|hours?|days?|J|joules?|W|watts?|V|volts?|A|amperes?|rad|radians?|Hz)\b"
    )
    silent = []
    for path in sources(room):
        for name, function in public_definitions(path):
            for one in arguments_of(function):
                number = one.annotation is not None and re.search(r"\b(?:float|int)\b", ast.unparse(one.annotation))
                if number and MEASURED.search(one.arg) and not units.search(ast.get_docstring(function) or ""):
                    silent.append(f"{path.relative_to(ROOT)}:{function.lineno} {name}({one.arg})")
    assert silent == []


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_public_class_and_module_says_what_it_is(room):
    missing = []
    for path in sources(room):
        tree = ast.parse(path.read_text())
        if tree.body and path.name != "__main__.py" and not ast.get_docstring(tree):
            missing.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert missing == []


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_room_raises_an_error_without_a_remedy(room):
    """The bare built-in errors carry none; `SystemExit` belongs to the command line alone."""
    missing = []
    for path in sources(room):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func).rpartition(".")[2]
                if name in {"Exception", "RuntimeError", "NotImplementedError", "SystemExit"} and path.name != "cli.py":
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno} raises {name}")
    assert missing == []
