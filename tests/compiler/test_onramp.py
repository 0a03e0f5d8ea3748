"""Models of other frameworks: torch's exported programs compile, and every other file says what to run."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hyle_compiler.errors import ModelError
from hyle_compiler.onramp import as_onnx
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile

import hyle

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Small(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.full = torch.nn.Linear(4 * 36, 10)

    def forward(self, image: Any) -> Any:
        return self.full(torch.relu(self.norm(self.conv(image))).flatten(1))


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    np.savez(tmp_path / "c.npz", image=np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32))
    return tmp_path / "c.npz"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    shapes = {"image": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(Small().eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(exported, tmp_path / "small.pt2")
    return tmp_path / "small.pt2"


def test_an_exported_program_compiles_to_what_torch_computes(
    program: Path, calib: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "1.hyle", tmp_path / "2.hyle"]
    for path in paths:
        done = compile_model(program, calib, *find_profile("ideal"), path, Options())
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert done.manifest.name == "small"
    assert [layer["op"] for layer in done.report["layers"]] == ["conv", "matmul"]
    assert done.report["calibration"]["exact"] == 1.0
    with hyle.open(paths[0]) as bundle:
        assert bundle.manifest.inputs[0].shape == (-1, 1, 8, 8)
    assert capfd.readouterr() == ("", "")


def test_a_module_compiles_from_python_and_stays_as_it_was(calib: Path, tmp_path: Path) -> None:
    module = Small().train()
    done = hyle.compile(module, target="ideal", calib=calib, output=tmp_path / "m.hyle")
    assert done.manifest.name == "Small"
    assert module.training
    np.savez(tmp_path / "wrong.npz", pixels=np.zeros((4, 1, 8, 8), np.float32))
    with pytest.raises(ModelError, match=r"forward takes \['image'\]; the samples have \['pixels'\]"):
        hyle.compile(module, target="ideal", calib=tmp_path / "wrong.npz", output=tmp_path / "n.hyle")


class Windows(torch.nn.Module):  # type: ignore[misc]
    """Attention on three axes, for which torch's exporter has no operator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 3)

    def forward(self, image: Any) -> Any:
        q, k, v = self.qkv(image[:, 0]).chunk(3, -1)
        return self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v))


class Spectral(Small):
    def forward(self, image: Any) -> Any:
        return torch.linalg.eigvalsh(self.conv(image)[:, 0])


def test_an_operator_that_torch_cannot_export_goes_as_those_that_it_is_made_of(calib: Path, tmp_path: Path) -> None:
    done = hyle.compile(Windows(), target="ideal", calib=calib, output=tmp_path / "w.hyle")
    assert [layer["macs"] for layer in done.report["layers"]] == [8 * 8 * 24, 8 * 8 * 3]
    assert done.report["calibration"]["exact"] == 1.0


def test_what_torch_cannot_export_at_all_is_named(calib: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch cannot export the module: .*_linalg_eigh"):
        hyle.compile(Spectral(), target="ideal", calib=calib, output=tmp_path / "s.hyle")
    assert not (tmp_path / "s.hyle").exists()


@pytest.mark.parametrize("what", ["module", "weights", "renamed", "script"])
def test_pickles_of_torch_are_never_loaded(what: str, tmp_path: Path) -> None:
    path = tmp_path / {"module": "m.pt", "weights": "m.pth", "renamed": "m.onnx", "script": "m.pt"}[what]
    if what == "script":
        torch.jit.trace(Small().eval(), torch.zeros(1, 1, 8, 8)).save(str(path))
    else:
        torch.save(Small() if what == "module" else Small().state_dict(), path)
    with pytest.raises(ModelError, match="is a pickle") as found:
        as_onnx(path, tmp_path)
    assert "torch.export.save" in found.value.remedy


class Harm:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def swap(program: Path, out: Path, name: str, content: bytes, rename: str | None = None) -> None:
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            hit = member.endswith(name)
            new.writestr(member if not (hit and rename) else rename, content if hit else old.read(member))


@pytest.mark.parametrize(
    "name", ["data/sample_inputs/model.pt", "data/weights/weight_0", "data/constants/opaque_obj_0"]
)
def test_an_exported_program_with_a_pickle_in_it_runs_nothing(name: str, program: Path, tmp_path: Path) -> None:
    mark = tmp_path / "harm"
    torch.save(Harm(str(mark)), tmp_path / "harm.pt")
    content = (tmp_path / "harm.pt").read_bytes() if "opaque" not in name else pickle.dumps(Harm(str(mark)))
    if "opaque" in name:
        swap(program, tmp_path / "bad.pt2", "data/weights/weight_0", content, f"small/{name}")
    else:
        swap(program, tmp_path / "bad.pt2", name, content)
    with pytest.raises(ModelError):
        as_onnx(tmp_path / "bad.pt2", tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 and no more"])
def test_a_damaged_program_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(ModelError) as found:
        as_onnx(tmp_path / "m.pt2", tmp_path)
    assert found.value.remedy


def test_without_torch_it_is_said_what_to_run(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="torch is not installed") as found:
        as_onnx(program, tmp_path)
    assert "pip install 'hyle[train]'" in found.value.remedy
    assert "torch.onnx.export" in found.value.remedy


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("m.tflite", "tf2onnx"),
        ("m.h5", "format='onnx'"),
        ("m.keras", "format='onnx'"),
        ("m.safetensors", "optimum-cli"),
        ("m.gguf", "optimum-cli"),
        ("m.pkl", "skl2onnx"),
        ("m.pdmodel", "paddle2onnx"),
        ("saved_model.pb", "tf2onnx"),
    ],
)
def test_other_formats_say_which_exporter_to_run(name: str, tool: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    paths = [tmp_path / name] + ([tmp_path] if name == "saved_model.pb" else [])
    for path in paths:
        with pytest.raises(ModelError, match="is not an ONNX model") as found:
            as_onnx(path, tmp_path)
        assert tool in found.value.remedy
