"""Installs bundles in forked children that kill themselves at a chosen step on the disk, then boots what is left.

Run as `python kill_worker.py FOLDER`; reads one JSON plan a line, writes one JSON outcome a line.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from agent_fakes import ROWS, TWIN, FakeExecutor, connect_twin, debris, weights
from hyle_agent.control import Controller
from hyle_agent.device_thread import DeviceThread
from hyle_agent.loading import SlotLoader
from hyle_agent.models import Models
from hyle_agent.store import Store
from hyle_agent.trust import Trust
from hyle_bundle import open_bundle

STEPS = ("open", "write", "fsync", "link", "rename", "replace", "mkdir", "unlink", "rmdir")


class Fuse:
    """Counts the process's steps on the disk and kills it at one of them.

    `mode` is `before` or `after` the step, or `torn`: a write of which half arrives.
    """

    def __init__(self, at: int, mode: str) -> None:
        self.steps = 0
        for name in STEPS:
            setattr(os, name, self._watched(name, getattr(os, name), at, mode))

    def _watched(self, name: str, real: Callable[..., object], at: int, mode: str) -> Callable[..., object]:
        def step(*args: object, **options: object) -> object:
            self.steps += 1
            if self.steps - 1 != at:
                return real(*args, **options)
            try:
                if mode == "torn" and name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                elif mode != "before":
                    real(*args, **options)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
            return None

        return step


def controller(store: Path) -> tuple[Controller, Models]:
    device = DeviceThread(lambda: connect_twin(TWIN), capacity=8)
    device.start()
    models = Models()
    loader = SlotLoader(device, FakeExecutor(), Trust((), True), threads=1)
    return Controller(Store(store), loader, models, lambda: None), models


def deploy(control: Controller, path: Path) -> None:
    with open_bundle(path) as bundle:
        names = {entry.sha256: name for name, entry in bundle.manifest.files.items()}
        for digest, entry in control.plan(bundle.manifest_bytes, b"").items():
            receipt = control.uploads.begin(digest, entry.size)
            receipt.write(bytes(bundle.read(names[digest])))
            receipt.finish()
        done = control.install(bundle.manifest_bytes, b"")
        control.activate(done.model, done.digest)


def install(folder: Path, plan: dict[str, object]) -> dict[str, object]:
    control, _ = controller(folder / "store")
    deploy(control, folder / "1.hyle")
    deploy(control, folder / "2.hyle")
    fuse = Fuse(int(str(plan["at"])), str(plan["mode"]))
    deploy(control, folder / "3.hyle")
    return {"steps": fuse.steps}


def boot(folder: Path, plan: dict[str, object]) -> dict[str, object]:
    if "boot_at" in plan:
        Fuse(int(str(plan["boot_at"])), str(plan["mode"]))
    control, models = controller(folder / "store")
    control.boot()
    loaded = models.get("small").serving
    assert loaded is not None
    x = np.ones((1, ROWS), np.float32)
    y = loaded.program.run({"x": x})["y"]
    version = next(v for v in (1, 2, 3) if np.array_equal(y, x @ weights(v)))
    assert str(version) == loaded.manifest.version
    return {"version": version, "debris": debris(folder / "store"), "reason": models.get("small").reason}


def forked(work: Callable[[Path, dict[str, object]], dict[str, object]], folder: Path, plan: dict[str, object]) -> dict:
    """Do it in a child; its outcome, or how it ended."""
    outcome = folder / "outcome.json"
    outcome.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            outcome.write_text(json.dumps(work(folder, plan)))
        except BaseException as error:
            outcome.write_text(json.dumps({"error": repr(error)}))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return {"killed": os.WTERMSIG(status)}
    return json.loads(outcome.read_text())


def main() -> None:
    folder = Path(sys.argv[1])
    connect_twin(TWIN).close()  # what is imported here need not be imported in every child
    gc.freeze()
    for line in sys.stdin:
        plan = json.loads(line)
        shutil.rmtree(folder / "store", ignore_errors=True)
        outcome = {"install": forked(install, folder, plan)}
        if "boot_at" in plan:
            outcome["first_boot"] = forked(boot, folder, plan)
        outcome["boot"] = forked(boot, folder, {})
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
