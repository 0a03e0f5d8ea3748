"""The command, and an agent run by it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def hyle(*arguments: str) -> dict[str, Any]:
    """Run a verb; return its document, or fail with what it said."""
    command = [sys.executable, "-m", "hyle", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class Served:
    """`hyle agent run` until its ready file is there."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        ready = folder / "ready"
        fixed = ["--listen", "127.0.0.1:0", "--store", str(folder / "store"), "--ready-file", str(ready)]
        command = [sys.executable, "-m", "hyle", "agent", "run", *fixed, *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while not ready.exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < end, "the agent did not start"
            time.sleep(0.02)
        self.address = ready.read_text()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
