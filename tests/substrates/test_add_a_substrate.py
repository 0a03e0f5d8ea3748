"""The example of docs/add-a-substrate.md works as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "add-a-substrate.md"
DIGITS = ROOT / "tests" / "data" / "digits_mlp"
BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an installation leaves it: the page's files as a package, and its entry points as metadata."""
    files = dict(BLOCK.findall(PAGE.read_text()))
    assert set(files) == {"water.py", "profiles/water-bench.toml", "pyproject.toml", "test_water.py"}
    site = tmp_path_factory.mktemp("site")
    package = site / "hyle_water"
    (package / "profiles").mkdir(parents=True)
    for empty in (package / "__init__.py", package / "profiles" / "__init__.py"):
        empty.touch()
    for name in ("water.py", "profiles/water-bench.toml"):
        (package / name).write_text(files[name])
    (site / "test_water.py").write_text(files["test_water.py"])
    metadata = site / "hyle_water-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hyle-water\nVersion: 1.0\n")
    points = re.findall(r'entry-points\."(.+?)"\]\n((?:.+ = .+\n)+)', files["pyproject.toml"])
    text = "".join(f"[{group}]\n{lines}".replace('"', "") + "\n" for group, lines in points)
    (metadata / "entry_points.txt").write_text(text)
    return site


def run(site: Path, *arguments: str) -> str:
    """Run Python in a process of its own, where the package is installed."""
    code = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); runpy.run_module("
    code += "sys.argv[0], run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(site), *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pages_own_test_passes(site: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    assert "2 passed" in run(site, "pytest", *options, str(site / "test_water.py"))


def test_the_target_is_listed_and_a_model_compiles_for_it(site: Path, tmp_path: Path) -> None:
    assert "water-bench" in run(site, "hyle.cli", "targets", "--json")
    out = tmp_path / "out.hyle"
    calibration = ["--target", "water-bench", "--calib", str(DIGITS / "calib.npz")]
    run(site, "hyle.cli", "compile", str(DIGITS / "model.onnx"), *calibration, "-o", str(out), "--json")
    assert out.stat().st_size > 10_000
