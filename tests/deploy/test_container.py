"""The container's root, made by its own script, entered as a runtime would: read-only, unprivileged, no shell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "edge_agent"))

from test_agent_footprint import installed_files  # noqa: E402

SCRIPT = ROOT / "deploy" / "container" / "rootfs.py"
PYTHON = Path(sys.base_prefix).resolve() / "bin" / f"python3.{sys.version_info.minor}"
LIBRARY = Path(os.__file__).resolve().parent
ENTER = """
mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" &&
mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" &&
mount -t tmpfs -o size=16m,uid=65532,gid=65532,mode=0700 tmpfs "$0/var/lib/hyle" &&
exec chroot --userspec=65532:65532 "$0" "$@"
"""


def may_enter() -> bool:
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("unshare", "chroot", "ldd", "mount")):
        return False
    return (
        subprocess.run(["unshare", "-m", "mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode
        == 0
    )


pytestmark = pytest.mark.skipif(not may_enter(), reason="this account may not enter another root")


def site(folder: Path) -> Path:
    """The base install, without extras, as an environment of its own."""
    ours = {Path(str(one.locate())) for one in metadata.files("hyle") or () if "dist-info" in str(one)}
    for path in installed_files() | ours:
        path = path.resolve()
        inside = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else path.parts
        starts = [i + 1 for i, part in enumerate(inside) if part == "site-packages"] or [
            i for i, part in enumerate(inside) if part == "hyle" or part.startswith("hyle_")
        ]
        if starts:  # else a script beside the packages
            target = folder.joinpath(*inside[starts[0] :])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("container")
    environment = site(folder / "site")
    trees = [PYTHON, LIBRARY, environment]
    subprocess.run([sys.executable, SCRIPT, folder / "root", *trees], check=True, timeout=300)
    yield folder / "root", environment
    shutil.rmtree(folder)


def entered(bare: tuple[Path, Path], *command: str) -> subprocess.Popen[str]:
    root, environment = bare
    env = {"PYTHONPATH": str(environment), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/var/lib/hyle"}
    enter = ["unshare", "-m", "--propagation", "private", "sh", "-c", ENTER, str(root), *command]
    return subprocess.Popen(
        enter, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env}
    )


def test_the_root_holds_no_shell_and_no_package_manager(bare: tuple[Path, Path]) -> None:
    root, _ = bare
    names = {path.name for path in root.rglob("*") if path.is_file() and os.access(path, os.X_OK)}
    assert (
        names & {"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "pip", "pip3", "perl", "su", "mount"}
        == set()
    )
    shell = entered(bare, "/bin/sh", "-c", "true")
    shell.communicate(timeout=60)
    assert shell.returncode == 127


def test_an_agent_serves_from_a_read_only_root_as_an_ordinary_user(bare: tuple[Path, Path]) -> None:
    writing = "import os; print(os.getuid()); open('/evil', 'w')"
    tried = entered(bare, str(PYTHON), "-c", writing)
    said, _ = tried.communicate(timeout=60)
    assert said.startswith("65532\n")
    assert "Read-only file system" in said or "Permission denied" in said
    agent = [str(PYTHON), "-m", "hyle", "agent", "run", "--listen", "127.0.0.1:0", "--store", "/var/lib/hyle/store"]
    process = entered(bare, *agent, "--profile", "ideal", "--insecure")
    try:
        line = process.stdout.readline()
        assert "ready on 127.0.0.1:" in line, line + process.stdout.read()
        address = line.split()[-1]
        probe = [sys.executable, "-m", "hyle_deploy.probe", "--to", address]
        assert subprocess.run(probe, check=False, timeout=60).returncode == 0
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "Uid:\t65532\t65532\t65532\t65532" in status
        assert "CapEff:\t0000000000000000" in status
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
