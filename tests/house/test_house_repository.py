"""What holds for the repository: licence, pinned versions, current generated code, and no trace of one machine."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = {
    ".py",
    ".pyi",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".json",
    ".sh",
    ".proto",
    ".conf",
    ".service",
    ".cfg",
    "",
}
# Spelt in parts so that this file does not find itself.
FORBIDDEN = [
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/opt/" + "pypi",
    "/opt/" + "wheels",
    "../sha" + "red",
    "/ho" + "me/",
    "cla" + "ude",
    "anthr" + "opic",
    "chat" + "gpt",
    "pypi" + "-more",
]


def tracked() -> list[Path]:
    """Files under version control; without git (a source archive), every file but what tools leave behind."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    left = {"build", "dist", "demo-out", "results", "__pycache__"}
    inside = ((path, path.relative_to(ROOT).parts) for path in ROOT.rglob("*") if path.is_file())
    return [path for path, parts in inside if not any(part in left or part.startswith(".") for part in parts[:-1])]


def requirements() -> dict[str, Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): one for one in parsed if one.name != "hyle"}


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    pinned = pins()
    for name, requirement in requirements().items():
        exact = [clause for clause in requirement.specifier if clause.operator == "=="]
        version = exact[0].version if exact else pinned.get(name)
        assert version is not None, f"{name} is not in constraints.txt; run `make pin`"
        assert requirement.specifier.contains(version), f"{name} {version} is not {requirement.specifier}"


def test_pins_are_plain_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    assert list(pins()) == sorted(pins())
    assert "hyle" not in pins()


def test_torch_comes_with_the_train_extra_alone():
    with_torch = [
        name for name, lines in PROJECT["optional-dependencies"].items() if any("torch" in line for line in lines)
    ]
    assert with_torch == ["train"]
    assert "torch==2.13.0" in PROJECT["optional-dependencies"]["train"]


def test_generated_code_is_current():
    command = [sys.executable, str(ROOT / "protos" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_generated_code_runs_with_the_oldest_versions_that_are_allowed():
    needed = {"protobuf": r"# Protobuf Python Version: (\S+)", "grpcio": r"GRPC_GENERATED_VERSION = '(\S+)'"}
    text = "".join(path.read_text() for path in (ROOT / "protos").rglob("*_pb2*.py"))
    for name, pattern in needed.items():
        for version in set(re.findall(pattern, text)):
            floor = next(clause.version for clause in requirements()[name].specifier if clause.operator == ">=")
            assert tuple(map(int, floor.split("."))) >= tuple(map(int, version.split("."))), (
                f"{name}>={version} is needed"
            )


def test_no_file_speaks_of_one_machine():
    found = []
    for path in tracked():
        if path.suffix in TEXT and path.stat().st_size < 2_000_000:
            text = path.read_text(errors="replace").lower()
            found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []


@pytest.mark.parametrize("name", [".ci/run", "scripts/setup.sh"])
def test_scripts_can_be_run_and_parse(name):
    path = ROOT / name
    assert path.stat().st_mode & stat.S_IXUSR
    assert "set -euo pipefail" in path.read_text()
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize("target", ["help", "setup", "demo", "test", "test-long", "lint", "check", "bench", "clean"])
def test_the_makefile_has_the_target(target):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "--dry-run", "--no-print-directory", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_ci_checks_and_then_tests():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1].endswith("make --no-print-directory test")
    assert lines[-2].endswith("make --no-print-directory lint")


def test_pre_commit_runs_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-format", "ruff-check", "import-linter"}
    assert all(hook["language"] == "system" for hook in hooks)


def test_decisions_are_numbered_and_say_what_decisions_say():
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert len(records) >= 5
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        headings = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences"], path.name


def test_links_between_documents_lead_somewhere():
    broken = []
    for path in tracked():
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
                if not (path.parent / target).exists():
                    broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def test_the_picture_of_the_readme_shows_the_figures_of_its_table():
    command = [sys.executable, str(ROOT / "docs" / "figures" / "overview.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_no_two_test_files_share_a_name():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
