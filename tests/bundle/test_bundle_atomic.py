from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hyle_bundle import Manifest, encode_manifest, open_bundle, write_bundle
from hyle_bundle.atomic import OutputError, replacing

Files = Mapping[str, Path | bytes]


def no_nameless_files(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")
    return real_open(path, flags, mode, dir_fd=dir_fd)


real_open = os.open


@pytest.fixture(params=["nameless", "named"], autouse=True)
def draft(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of file system: with files that have no name yet, and without."""
    if request.param == "named":
        monkeypatch.setattr(os, "open", no_nameless_files)
    return str(request.param)


def test_the_file_appears_whole_with_the_mode_of_any_new_file(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        with replacing(tmp_path / "f") as file:
            file.write(b"new")
            assert not (tmp_path / "f").exists()
    finally:
        os.umask(previous)
    assert (tmp_path / "f").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def fail() -> None:
        with replacing(tmp_path / "f") as file:
            file.write(b"half" * (1 << 19))
            raise error

    with pytest.raises(OutputError if error is OSError else error):
        fail()
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_of_any_last_step_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError, match="Input/output error"), replacing(tmp_path / "f") as file:
        file.write(b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_an_output_that_cannot_be_written_gets_a_sentence_and_a_remedy(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "f", "No such file"),
        (tmp_path / "file" / "f", "Not a directory"),
        (Path("/proc/f"), "cannot be written"),
    ):
        with pytest.raises(OutputError, match=reason) as caught:
            write_bundle(path, manifest, {"a": b""})
        assert str(path) in caught.value.message
        assert caught.value.remedy
        assert caught.value.exit_code == 2


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(OutputError, match="Permission denied"), replacing(tmp_path / "f"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "real").read_bytes() == b"old"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("limit", [0, 1, 4096, 300_000])
def test_a_write_beyond_the_size_limit_leaves_the_old_bundle(tmp_path: Path, manifest: Manifest, limit: int) -> None:
    """The limit makes the kernel refuse the write in the middle, as a full disk does."""
    script = """
import resource, signal, sys
from pathlib import Path
from hyle_bundle import decode_manifest, write_bundle
from hyle_bundle.atomic import OutputError
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
manifest = decode_manifest((folder / "bundle.json").read_bytes())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_bundle(folder / "b.hyle", manifest, {"big.onnx": bytes(3 << 20)})
except OutputError as error:
    assert "File too large" in error.message, error.message
else:
    raise SystemExit("the limit did not hold")
"""
    (tmp_path / "bundle.json").write_bytes(encode_manifest(manifest))
    write_bundle(tmp_path / "b.hyle", manifest, {"small.onnx": b"1"})
    before = (tmp_path / "b.hyle").read_bytes()
    subprocess.run([sys.executable, "-c", script, tmp_path, str(limit)], check=True, timeout=60)
    assert (tmp_path / "b.hyle").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.hyle", "bundle.json"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "hyle-test", str(disk)]
        done = subprocess.run(mount, capture_output=True, timeout=20, check=False)
    except OSError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True, timeout=20)


def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(small_disk: Path, manifest: Manifest) -> None:
    write_bundle(small_disk / "b.hyle", manifest, {"small.onnx": b"1"})
    before = (small_disk / "b.hyle").read_bytes()
    for size in (1 << 20, 4 << 20):
        with pytest.raises(OutputError, match="No space left"):
            write_bundle(small_disk / "b.hyle", manifest, {"big.onnx": bytes(size)})
        assert (small_disk / "b.hyle").read_bytes() == before
        assert [path.name for path in small_disk.iterdir()] == ["b.hyle"]
    write_bundle(small_disk / "b.hyle", manifest, {"half.onnx": bytes(600 << 10)})
    with open_bundle(small_disk / "b.hyle") as bundle, pytest.raises(OutputError, match="No space left"):
        bundle.extract(small_disk / "out")
    assert [path.name for path in small_disk.iterdir()] == ["b.hyle"]


WRITER = """
import itertools, os, sys
from pathlib import Path
from hyle_bundle import decode_manifest, write_bundle
folder = Path(sys.argv[1])
if sys.argv[2] == "named":
    os.O_TMPFILE = 1 << 30
manifest = decode_manifest((folder / "bundle.json").read_bytes())
files = [{"big.onnx": bytes([turn]) * (1 << 20)} for turn in (1, 2)]
print("ready", flush=True)
for turn in itertools.cycle(files):
    write_bundle(folder / "out" / "b.hyle", manifest, turn)
"""


def nameless_files_work(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        os.close(real_open(folder, os.O_TMPFILE | os.O_WRONLY))
        return True
    return False


def test_a_kill_at_any_moment_leaves_the_old_bundle_or_the_new_one(
    tmp_path: Path, manifest: Manifest, draft: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "bundle.json").write_bytes(encode_manifest(manifest))
    target, rng = out / "b.hyle", random.Random(3)
    digests = [write_bundle(target, manifest, {"big.onnx": bytes([turn]) * (1 << 20)}) for turn in (2, 1)]
    # Without nameless files a killed writer leaves a hidden draft; with them one that has a name is already whole.
    drafts_are_whole = draft == "nameless" and nameless_files_work(out)
    for _ in range(15):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, draft], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
        with open_bundle(target) as bundle:
            assert bundle.digest in digests
        for path in set(out.iterdir()) - {target}:
            assert path.name.endswith(".tmp")
            assert not drafts_are_whole or open_bundle(path).digest in digests
            path.unlink()
