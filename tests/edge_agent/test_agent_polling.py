"""Whoever waits at the completion queue reads the sockets: when that is so, and that everything works then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from agent_fakes import ON_BOTH

OFF = "-event_engine_listener"
SECONDS = 300


def said(code: str, experiments: str = "") -> str:
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "GRPC_EXPERIMENTS": experiments}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


ASK = "from hyle_agent.polling import poll_here, polled_here; poll_here(); import os, sys; "
ASK += "print('grpc' in sys.modules, polled_here(), os.environ['GRPC_EXPERIMENTS'])"


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("", f"False True {OFF}"),
        ("fuse_filters", f"False True fuse_filters,{OFF}"),
        (OFF, f"False True {OFF}"),
        ("event_engine_listener", "False False event_engine_listener"),
    ],
)
def test_sockets_are_read_here_unless_an_operator_says_otherwise(asked: str, answer: str) -> None:
    assert said(ASK, asked) == answer


def test_it_is_too_late_once_grpc_was_imported() -> None:
    assert said(f"import grpc; {ASK}") == "True False"


@pytest.mark.parametrize(("experiments", "answer"), [("", "1 []"), ("event_engine_listener", "0 []")])
def test_a_long_flush_wakes_the_second_reader_which_ends_with_its_server(experiments: str, answer: str) -> None:
    """Any time is long here, and one request is enough."""
    code = (
        "from hyle_agent.polling import poll_here; poll_here();"
        "import threading; from hyle_agent import cq_engine, cq_self_test;"
        "cq_engine.AWAY_S, cq_engine._COMPANY = 0.0, 1; seen = []; reader = cq_engine.SecondReader; help = reader.help;"
        "reader.help = lambda self: (seen.append(self), help(self))[1]; cq_self_test.answers();"
        "print(len(seen), [one.name for one in threading.enumerate() if one.name in ('serving', 'reading')])"
    )
    assert said(code, experiments) == answer


@pytest.mark.parametrize(("least", "answer"), [(1, "1"), (2, "0")])
def test_a_program_on_all_cores_wakes_the_second_reader_for_more_requests_only(least: int, answer: str) -> None:
    code = (
        "from hyle_agent.polling import poll_here; poll_here();"
        "from hyle_agent import cq_engine, cq_self_test; echo = cq_self_test._Echo; made = echo.__init__;"
        "echo.__init__ = lambda self: (made(self), setattr(self, 'crowded', True))[0];"
        f"cq_engine.AWAY_S, cq_engine._COMPANY, cq_engine._CROWD = 0.0, 1, {least}; seen = [];"
        "cq_engine.SecondReader.help = lambda self: seen.append(self); cq_self_test.answers(); print(len(seen))"
    )
    assert said(code, "") == answer


def test_what_speaks_grpc_passes_when_sockets_are_read_here() -> None:
    """The suites that run on both engines, once more on the completion queue, in a process that reads itself."""
    here = Path(__file__).parent
    files = [str(here / f"test_agent_{name}.py") for name in ON_BOTH]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-cov"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    environment["GRPC_EXPERIMENTS"] = OFF
    run = subprocess.run(
        [*command, "-k", "completion-queue", *files], capture_output=True, text=True, env=environment, timeout=SECONDS
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout
