"""`hyle agent` as a process: what it loads, what it says, how it ends; and telemetry that never stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from agent_fakes import config_for, running
from hyle_protos.control import control_pb2 as pb
from hyle_protos.control import control_pb2_grpc

FORBIDDEN = ("onnx", "torch", "ndonnx", "onnx_ir", "onnxscript", "hyle_compiler")


def hyle(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hyle", "agent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


class Served:
    """`hyle agent run` until its ready file is there."""

    def __init__(
        self,
        tmp_path: Path,
        *arguments: str,
        command: tuple[str, ...] = ("-m", "hyle"),
        program: tuple[str, ...] = (),
    ) -> None:
        ready = tmp_path / "ready"
        ready.unlink(missing_ok=True)
        fixed = [
            "agent",
            "run",
            "--listen",
            "127.0.0.1:0",
            "--store",
            str(tmp_path / "store"),
            "--ready-file",
            str(ready),
        ]
        self.process = subprocess.Popen(
            [*(program or (sys.executable, *command)), *fixed, *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        end = time.monotonic() + 90
        while not ready.exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < end, "the agent did not start"
            time.sleep(0.01)
        self.address = ready.read_text()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.end()

    def end(self) -> tuple[str, str]:
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=90)


def test_the_command_serves_until_sigterm_and_prints_one_document(tmp_path: Path) -> None:
    options = ("--insecure", "--node", "edge-1", "--profile", "ideal", "--seed", "3", "--json")
    with Served(tmp_path, *options) as served, grpc.insecure_channel(served.address) as channel:
        status = control_pb2_grpc.ControlStub(channel).Status(pb.StatusRequest())
        out, err = served.end()
    assert (status.node, status.device.profile, status.device.identity) == ("edge-1", "ideal", "twin:ideal:3")
    assert served.process.returncode == 0
    assert json.loads(out) == {"action": "run", "address": served.address, "stopped": True}
    assert f"hyle agent ready on {served.address}" in err


PROBE = """
import atexit, sys
from hyle.cli import main
atexit.register(lambda: print("LOADED", *sorted(name.partition(".")[0] for name in sys.modules)))
sys.exit(main())
"""


def test_a_running_agent_has_loaded_neither_onnx_nor_torch_nor_the_compiler(tmp_path: Path) -> None:
    with Served(tmp_path, "--insecure", command=("-c", PROBE)) as served:
        out, _ = served.end()
    loaded = set(out.partition("LOADED")[2].split())
    assert {"hyle_agent", "onnxruntime", "numpy", "grpc"} <= loaded
    assert loaded.isdisjoint(FORBIDDEN)


def test_init_writes_what_run_reads(tmp_path: Path) -> None:
    done = hyle("init", "--directory", str(tmp_path / "edge"), "--host", "edge.example", "--json")
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert sorted(Path(path).name for path in files) == sorted(
        [
            "agent.toml",
            *(f"{name}.{kind}" for name in ("agent", "authority", "client", "query") for kind in ("crt", "key")),
        ]
    )
    with Served(tmp_path, "--config", str(tmp_path / "edge/agent.toml")) as served:
        served.end()
    assert served.process.returncode == 0
    again = hyle("init", "--directory", str(tmp_path / "edge"))
    assert again.returncode == 2
    assert "is there already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--driver", "chip"), "twin"),
        (("--profile", "no-such"), "no-such"),
        (("--listen", "0.0.0.0:0"), "tls"),
        (("--listen", "0.0.0.0:0", "--insecure"), "insecure"),
        (("--config", "none.toml"), "none.toml"),
        (("--broker", "nowhere"), "--broker"),
        (("--trust", "none.pub"), "none.pub"),
        (("--option", "colour=red"), "colour"),
        (("--seed", str(1 << 64)), "2**64"),
        (("--listen", "127.0.0.1:0", "--ready-file", "none/ready"), "The ready file none/ready"),
    ],
)
def test_what_the_caller_got_wrong_is_said_and_exits_2(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = hyle("run", "--store", str(tmp_path / "store"), *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("tls", [False, True])
def test_an_agent_on_a_socket_in_the_file_system_is_asked_there(tmp_path: Path, tls: bool) -> None:
    address = f"unix:{tmp_path / 'agent.sock'}"
    given: dict[str, str] = {}
    if tls:
        assert hyle("init", "--directory", str(tmp_path)).returncode == 0
        given = {"--ca": "authority.crt", "--cert": "client.crt", "--key": "client.key"}
    config = ("--config", str(tmp_path / "agent.toml")) if tls else ()
    with Served(tmp_path, *config, "--listen", address) as served:
        assert served.address == address
        files = [word for option, name in given.items() for word in (option, str(tmp_path / "certs" / name))]
        command = [sys.executable, "-m", "hyle", "status", "--to", address, "--json", *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["device"]["driver"] == "twin"


def test_a_second_agent_on_a_store_exits_2(tmp_path: Path) -> None:
    with Served(tmp_path):
        done = hyle("run", "--listen", "127.0.0.1:0", "--store", str(tmp_path / "store"))
    assert done.returncode == 2
    assert "Another agent owns" in done.stderr


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = hyle("run", "--store", str(tmp_path / "file/store"))
    assert done.returncode == 1
    assert "cannot be used" in done.stderr


def test_a_broker_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        telemetry = {"host": "127.0.0.1", "port": port, "interval_s": 0.05}
        with running(config_for(tmp_path / "store", telemetry=telemetry)) as agent:
            with grpc.insecure_channel(agent.address) as channel:
                assert control_pb2_grpc.ControlStub(channel).Status(pb.StatusRequest()).node == "n"
            assert agent.agent._reporter is not None


def test_the_snapshot_holds_scalars_only(tmp_path: Path) -> None:
    with running(config_for(tmp_path / "store")) as agent:
        snapshot = agent.agent.snapshot()
    assert snapshot.rss_bytes > 10 * os.sysconf("SC_PAGESIZE")
    for name in snapshot.__slots__:
        assert isinstance(getattr(snapshot, name), (str, int, float, bool, tuple))
